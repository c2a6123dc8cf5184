"""Every post-hoc OOD score, as rows of one registry: higher means more in-distribution."""
