"""Image sources, the training set that crops and degrades them, and their preparation."""

from data.source import DATASETS, Source, SourceEntry, UnreadableImageError

__all__ = ["DATASETS", "Source", "SourceEntry", "UnreadableImageError"]
