"""Measure generators on data sets, or over a grid of degradations."""
