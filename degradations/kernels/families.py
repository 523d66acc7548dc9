"""Blur kernel families, as NumPy float64 arrays (k, k) that sum to 1."""

from typing import Literal

import numpy as np

_SMALLEST = 1e-8
"""Widths below this give the same kernel: a single pixel."""


def isotropic_gaussian(size: int, sigma: float) -> np.ndarray:
    """Return MATLAB's fspecial('gaussian', size, sigma); sigma in pixels. The outer product of `gaussian_row`."""
    row = gaussian_row(size, sigma)
    return np.outer(row, row)


def gaussian_row(size: int, sigma: float, shift: float = 0.0) -> np.ndarray:
    """Return the 1-D factor (size,) of `isotropic_gaussian`, centred at (size - 1) / 2 - shift, sum 1."""
    x = np.arange(size) - ((size - 1) / 2 - shift)
    q = (x / max(sigma, _SMALLEST)) ** 2
    row = np.exp(-0.5 * (q - q.min()))  # so that a centre between pixels leaves something of the narrowest
    row[row < np.finfo(float).eps * row.max()] = 0
    return row / row.sum()


def square(kernel: np.ndarray) -> np.ndarray:
    """Return the kernel (k, k) that a row (k,) stands for; any other as it is."""
    return np.outer(kernel, kernel) if kernel.ndim == 1 else kernel


def anisotropic_gaussian(
    size: int, theta: float, variance_1: float, variance_2: float, shift: float = 0.0
) -> np.ndarray:
    """Sample a bivariate normal density at pixel centres (BSRGAN, Sec. 3.1); widths and shift as in `elliptic`."""
    return elliptic(size, theta, variance_1, variance_2, shift=shift)


def elliptic(
    size: int,
    theta: float,
    variance_1: float,
    variance_2: float,
    beta: float = 1.0,
    profile: Literal["gaussian", "plateau"] = "gaussian",
    shift: float = 0.0,
) -> np.ndarray:
    """Return a kernel whose level lines are ellipses q = const (Real-ESRGAN, Sec. 3.1, after Liu et al., TIP 2020).

    `gaussian` is exp(-q^β / 2): the normal density for β = 1, more pointed below, flatter above. `plateau` is
    1 / (1 + q^β), with heavy tails. `variance_1` lies along (cos θ, sin θ) in (x right, y down) coordinates,
    `variance_2` across; in square pixels. The centre stands `shift` pixels to the upper left of the middle.
    """
    x = np.arange(size) - ((size - 1) / 2 - shift)
    along = np.cos(theta) * x[None, :] + np.sin(theta) * x[:, None]
    across = np.sin(theta) * x[None, :] - np.cos(theta) * x[:, None]
    q = (along**2 / max(variance_1, _SMALLEST) + across**2 / max(variance_2, _SMALLEST)) ** beta
    kernel = np.exp(-0.5 * (q - q.min())) if profile == "gaussian" else 1 / (1 + q)
    return kernel / kernel.sum()


def sinc(size: int, cutoff: float) -> np.ndarray:
    """Return the circular ideal low-pass of odd `size`, with negative lobes (Real-ESRGAN, Sec. 3.3 and Eq. 6).

    `cutoff` is in radians per pixel: π passes all that the grid holds along its axes.
    """
    from scipy.special import j1  # loads long, and test.py makes no such kernel

    x = np.arange(size) - size // 2
    radius = np.hypot(x[:, None], x[None, :])
    radius[size // 2, size // 2] = 1  # the limit there is written below
    kernel = cutoff * j1(cutoff * radius) / (2 * np.pi * radius)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * np.pi)
    return kernel / kernel.sum()


def shift_to_upper_left(kernel: np.ndarray, scale: int) -> np.ndarray:
    """Move a kernel's content by (scale - 1) / 2 pixels to the upper left, bilinearly, edges replicated.

    Blurring with it and keeping every `scale`-th pixel from the first leaves the image centred. The result is
    normalised to sum 1. A row (k,) stands for its outer product, and so does the result.
    """
    shift = (scale - 1) / 2

    def moved(values: np.ndarray) -> np.ndarray:
        n = values.shape[0]
        at = np.clip(np.arange(n) + shift, 0, n - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, n - 1)
        t = at - low
        return values[low].T * (1 - t) + values[high].T * t

    result = moved(kernel) if kernel.ndim == 1 else moved(moved(kernel))
    return result / result.sum()
