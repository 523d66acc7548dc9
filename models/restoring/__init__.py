"""Restore images with a trained generator."""
