"""Blur kernels: parametric families, files of kernels, motion, and kernels that vary over an image."""
