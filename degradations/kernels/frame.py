"""The frame of a blur kernel: its odd size, whether an image is large enough, and where in it the kernel stands."""

from typing import Literal

import numpy as np

from degradations.operations.filters import Border
from degradations.operations.ragged import Size

Align = Literal["upper_left", "centre"]


def check_odd_range(size_range: tuple[int, int]) -> None:
    """Raise ValueError for a range of kernel sizes without an odd one of at least 1."""
    if size_range[0] < 1 or (size_range[0] | 1) > size_range[1]:
        raise ValueError(f"size_range {list(size_range)} holds no odd kernel size of at least 1")


def draw_odd(rng: np.random.Generator, low: int, high: int) -> int:
    """Draw an odd number in [low, high]."""
    first = low | 1
    return first + 2 * int(rng.integers((high - first) // 2 + 1))


def draw_mirrored_size(rng: np.random.Generator, size_range: tuple[int, int], image: Size) -> int:
    """Draw an odd kernel size.

    Raises ValueError for an image too small for any size of the range, so that small images fail always or never.
    """
    check_mirrors(image, (size_range[1] - 1) | 1)
    return draw_odd(rng, *size_range)


def check_mirrors(image: Size, kernel: int) -> None:
    """Raise ValueError for an image that cannot be mirrored by the radius of a kernel of this size."""
    if min(image) <= kernel // 2:
        raise ValueError(
            f"a blur with kernels up to {kernel}x{kernel} was given an image of {image[0]}x{image[1]} pixels, which "
            f"cannot be mirrored by {kernel // 2}; use a larger crop_size (or image), a smaller size_range, or less "
            "shrinking before it"
        )


def check_wraps(image: Size, kernel: int, border: Border) -> None:
    """Raise ValueError for a kernel that would wrap around an image more than once."""
    if border == "wrap" and kernel > min(image):
        height, width = image
        raise ValueError(
            f"a kernel of {kernel}x{kernel} is larger than the image of {height}x{width}, which it would wrap around; "
            "use larger images, smaller kernels, or another border"
        )


def shift_of(align: Align | Literal["released"], factor: int) -> float:
    """Return how far to the upper left a kernel stands, in pixels.

    With `upper_left`, the upper left pixel of each block of `factor` x `factor` shows the block's centre, so that
    blurring and keeping that pixel leaves an image where bicubic resizing leaves it.
    """
    return {"upper_left": 0.5, "centre": 0.0, "released": -0.5}[align] * (factor - 1)
