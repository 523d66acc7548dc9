"""Stages: how networks learn."""
