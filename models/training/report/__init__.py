"""Runs beside each other on one page: `python -m models.training.report runs/*`."""
