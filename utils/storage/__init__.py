"""What lies on disk: files replaced whole, checkpoints, locks, databases."""
