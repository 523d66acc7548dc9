"""A training run: its option file, its parts, and what it reports."""
