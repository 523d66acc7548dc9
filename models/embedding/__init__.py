"""What a degradation encoder has learned: `python -m models.embedding`."""
