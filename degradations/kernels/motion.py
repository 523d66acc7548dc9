"""Blur kernels of camera shake: a random path of the camera, drawn into a kernel.

The generator of USRNet's released training code, after Boracchi and Foi ("Modeling the Performance of Image Restoration
from Motion Blur", TIP 2012).
"""

from functools import lru_cache

import cv2
import numpy as np

from degradations.kernels.families import isotropic_gaussian
from utils.seeding import generator

POINTS = 250
"""Points of a path."""
LARGEST = 27
"""Side of the largest kernel that a path is drawn into."""


@lru_cache(maxsize=256)
def kernel_of_seed(seed: int, size: int) -> np.ndarray:
    """Draw `motion_kernel` from a plan's seed. It is kept, since a blur and its condition ask, and not writeable."""
    kernel = motion_kernel(generator(seed), size)
    kernel.flags.writeable = False
    return kernel


def motion_kernel(rng: np.random.Generator, size: int = 25) -> np.ndarray:
    """Draw a camera-shake kernel (size, size), float64, non-negative, sum 1; `size` is odd.

    A path is drawn into a kernel of 5 to 27 pixels, most often a small one. One in four is then stretched up to five
    times in each direction, and cut to the size it had. What `size` cannot hold is cut off around the middle, where
    the released code keeps the upper left (of its 27 pixels, 25: 1 in 20). The path's middle, not its centre of mass,
    is the kernel's, so that it may move the image.
    """
    path = random_path(rng)
    drawn = np.zeros((1, 1))
    while not drawn.sum() > 0:  # all points may lie in the cells that `draw_path` leaves out
        side = round(min(5 - np.log(rng.random()) / 0.15, LARGEST))
        drawn = draw_path(path, side + 1 - side % 2)
    drawn = cv2.filter2D(drawn, -1, isotropic_gaussian(3, 1.0), borderType=cv2.BORDER_CONSTANT)
    kernel = _middle(drawn / drawn.sum(), size)
    if rng.integers(4) == 1:
        width, height = (int(rng.integers(size, 5 * size + 1)) for _ in range(2))
        kernel = _middle(cv2.resize(kernel, (width, height)), size)
    if kernel.sum() < 0.1:  # hardly any of it is left
        kernel = isotropic_gaussian(size, 0.1 + 6 * rng.random())
    return kernel / kernel.sum()


def random_path(rng: np.random.Generator) -> np.ndarray:
    """Draw positions (3, POINTS) of a camera that starts at 0, its velocity and angles pushed ever more weakly."""
    start = rng.standard_normal(3)
    pushes = rng.standard_normal((POINTS - 1, 2, 3)) / np.arange(2, POINTS + 1)[:, None, None]
    x, y, z = start[:, None] + pushes[:, 1].cumsum(0).T
    # Angles grow by themselves too: a(t) = growth · a(t-1) + (growth - 1) · push(t), summed in closed form.
    growth = 1 + 2 * np.pi / POINTS
    powers = growth ** np.arange(1, POINTS)[:, None]
    angles = ((growth - 1) * pushes[:, 0] / powers).cumsum(0) * powers
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles).T, np.sin(angles).T
    y, z = cx * y - sx * z, sx * y + cx * z
    x, z = cy * x + sy * z, cy * z - sy * x
    x, y = cz * x - sz * y, sz * x + cz * y
    return np.pad(np.stack([x, y, z]).cumsum(1), ((0, 0), (1, 0)))


def draw_path(path: np.ndarray, side: int) -> np.ndarray:
    """Count the points of a path (3, n) in each of side x side cells of its extent in the first two directions.

    Quirk: the released code leaves the last row and column of cells out.
    """
    edges = [np.arange(low, high, (high - low) / side) for low, high in zip(path.min(1), path.max(1), strict=True)]
    counts, _, _ = np.histogram2d(path[0], path[1], edges[:2])
    return np.pad(counts, ((0, side - counts.shape[0]), (0, side - counts.shape[1])))


def _middle(kernel: np.ndarray, size: int) -> np.ndarray:
    """Cut the middle (size, size) out of a kernel, zeros around it where it is smaller."""
    kernel = np.pad(kernel, max(0, (size - min(kernel.shape)) // 2))
    top, left = ((side - size) // 2 for side in kernel.shape)
    return kernel[top : top + size, left : left + size]
