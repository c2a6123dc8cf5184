"""Neural collapse, NC1 to NC5: metrics, layers, epochs."""
