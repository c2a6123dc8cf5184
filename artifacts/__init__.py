"""Files that stages hand each other: strict CSV and Parquet, features, heads and tables, and the
sidecars that say what made them."""
