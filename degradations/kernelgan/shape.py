"""The shape of an estimated kernel: KernelGAN's post-processing (Bell-Kligler et al., NeurIPS 2019), and its faults."""

import math
from collections.abc import Sequence

import numpy as np
import scipy.ndimage

IRREGULAR = {2: 0.37, 4: 0.23}
"""By scale, since applied twice a kernel becomes more regular: the irregularity above which it is not accepted."""


def zeroised(kernel: np.ndarray, keep: int = 40) -> np.ndarray:
    """Clear the noise of a kernel (k, k): subtracts 3/4 of its value of rank `keep` + 1, drops what is negative.

    Keeps the dtype; the result sums to 1.
    """
    threshold = 0.75 * np.sort(kernel, axis=None)[-keep - 1]
    cleared = np.clip(kernel - threshold, 0, 100)
    return cleared / cleared.sum()


def moved_to_centre(kernel: np.ndarray, scale: int) -> np.ndarray:
    """Move the centre of mass of a kernel (k, k) to where blurring with it and keeping every `scale`-th pixel leaves
    an image centred: (scale - 1) / 2 pixels to the lower right of the middle pixel k // 2, if k is odd.

    By cubic splines, in a frame that grows with the move, by 4 for moves below one pixel. The sum drifts by some 1e-6,
    and values may be negative by some 1e-3 of the sum. Keeps the dtype.
    """
    size = kernel.shape[0]
    move = size // 2 + 0.5 * (scale - size % 2) - centre_of_mass(kernel)
    padded = np.pad(kernel, math.ceil(np.abs(move).max()) + 1)
    return scipy.ndimage.shift(padded, move)


def centre_of_mass(kernel: np.ndarray) -> np.ndarray:
    """Return (row, column) of the centroid, counted from 0."""
    return np.array(scipy.ndimage.center_of_mass(kernel))


def twice_applied(kernel: np.ndarray) -> np.ndarray:
    """Return the x4 kernel (2k - 1, 2k - 1) that stands for downscaling twice by the x2 kernel (k, k), float64, sum 1.

    A pixel of the second kernel is the whole first kernel, two pixels further on (KernelGAN, Sec. 3); the margin is
    cut off. A centre of mass at k // 2 + 1/2 comes out at the new middle pixel + 3/2, which is right for x4.
    """
    size = kernel.shape[0]
    big = np.zeros((3 * size - 2,) * 2)
    for row in range(size):
        for column in range(size):
            big[2 * row : 2 * row + size, 2 * column : 2 * column + size] += kernel[row, column] * kernel
    inner = big[size // 2 : 2 * size - 1 + size // 2, size // 2 : 2 * size - 1 + size // 2]
    return inner / inner.sum()


def flaws(kernel: np.ndarray, scale: int) -> list[str]:
    """Name what is wrong with an aligned kernel (k, k) for `scale`; empty if nothing.

    `spread`: 10 % of its absolute mass or more lies outside of the central 60 % of its frame. `split`: what is above
    half of its maximum falls apart. `off_centre`: its centroid is more than half a pixel, on some axis, from where
    `moved_to_centre` puts it. `irregular`: none of these, but its `irregularity` is above that of kernels which
    mostly prove right.
    """
    size = kernel.shape[0]
    if not _is_kernel(kernel):
        return ["spread", "split", "off_centre"]
    middle = size // 2 + (scale - 1) / 2
    central = np.abs(np.arange(size) - middle) <= 0.3 * size
    mass = np.abs(kernel)
    labels = np.empty(kernel.shape, int)
    parts = scipy.ndimage.label(kernel >= kernel.max() / 2, structure=np.ones((3, 3)), output=labels)
    flawed = {
        "spread": mass[np.ix_(central, central)].sum() <= 0.9 * mass.sum(),
        "split": parts != 1,
        "off_centre": np.abs(centre_of_mass(kernel) - middle).max() > 0.5,
    }
    found = [name for name, is_so in flawed.items() if is_so]
    return found or ["irregular"] * (irregularity(kernel) > IRREGULAR[scale])


def irregularity(kernel: np.ndarray) -> float:
    """Return how far a kernel (k, k) is from the Gaussian of its own centre and widths, relative to itself; infinity
    for what is not finite or sums to 0 or less.

    What estimation gets wrong gives a kernel bumps and tails; of all that an estimate shows it tells failures best
    (tests/benchmarks/SCIENCE.md). Shapes that are found badly, such as shake, are irregular themselves.
    """
    if not _is_kernel(kernel):
        return math.inf
    size, mass = kernel.shape[0], np.maximum(kernel, 0) / np.maximum(kernel, 0).sum()
    places = np.indices((size, size)) - centre_of_mass(mass)[:, None, None]
    covariance = np.einsum("iyx,jyx,yx->ij", places, places, mass) + 1e-3 * np.eye(2)
    gaussian = np.exp(-0.5 * np.einsum("iyx,ij,jyx->yx", places, np.linalg.inv(covariance), places))
    return float(np.linalg.norm(mass - gaussian / gaussian.sum()) / np.linalg.norm(mass))


def _is_kernel(kernel: np.ndarray) -> bool:
    """Tell whether estimation gave anything: finite values with a sum above 0."""
    return bool(np.isfinite(kernel).all() and kernel.sum() > 0)


def outlying(losses: Sequence[float]) -> np.ndarray:
    """Tell which losses of a pool, (n,) bool, exceed its median by more than 3 median absolute deviations.

    So does what is no number. The flaw of a pool's kernels that is named `loss`.
    """
    values = np.asarray(losses, np.float64)
    finite = values[np.isfinite(values)]
    if not finite.size:
        return np.ones(values.shape, bool)
    median = np.median(finite)
    return ~(values <= median + 3 * np.median(np.abs(finite - median)))
