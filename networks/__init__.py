"""Networks by name, from a person's own file, and from checkpoints of any project."""
