"""Non-blind restoration of images that tell neither blur nor noise: what a network is told, and periodic borders."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from degradations.kernels.families import isotropic_gaussian, shift_to_upper_left
from utils.options.fields import Count, OptionError, Positive

NoiseLevel = Annotated[float, Field(ge=0, le=255)]

GAUSSIAN_SIDE = 25
MARGIN, MULTIPLE = 16, 8
"""An image is extended by so many pixels at least, to a multiple of that (released with USRNet)."""


@dataclass(frozen=True)
class Assumption:
    """What a non-blind network is told of images that come without their blur: real ones, and bicubic's.

    Either a Gaussian, shifted so that the result lies where the image lies (for photographs the released tool has
    widths of 0.4, 0.7, 1.5 and 2.0 at scales 1 to 4), or a kernel from a file, as it stands there: it must have been
    made for the scale.

    Args:
        width: standard deviation of the Gaussian in pixels of the result.
        path: a file, folder or pattern of kernels (see `read_bank`).
        index: which of them, counted from 0; of a file of one kernel it may be left out.
        noise_level: standard deviation of the noise in 8-bit levels.

    Raises:
        ValueError: if it is not either a width or a path, or the path has no such kernel.
    """

    width: Positive | None = None
    path: str | None = None
    index: Count | None = None
    noise_level: NoiseLevel = 0.0

    def __post_init__(self) -> None:
        if (self.width is None) == (self.path is None):
            found = "neither" if self.path is None else "both"
            raise ValueError(f"found {found}, expected either the width of a Gaussian or a file of kernels")
        if self.path is None and self.index:
            raise ValueError(f"found index {self.index} without a file of kernels (path) that it could be of")
        _ = self._kernel  # a wrong file is said at once

    @classmethod
    def of_arguments(cls, width: float | None, kernel: str | None, noise_level: float | None) -> "Assumption | None":
        """Return what --kernel-width, --kernel FILE[:INDEX] and --noise-level say; None where none of them is given."""
        if width is None and kernel is None and noise_level is None:
            return None
        path, colon, index = (kernel or "").rpartition(":")
        if not (colon and index.isdecimal()) or Path(kernel or "").exists():
            path, index = kernel, ""
        try:
            return cls(width, path, int(index) if index else None, noise_level or 0.0)
        except ValueError as error:
            flags = "--kernel" if path and width is None else "--kernel-width, --kernel"
            raise OptionError(f"{flags}: {error}") from error

    @cached_property
    def _kernel(self) -> tuple[np.ndarray, int | None]:
        """Return the kernel, and the scale that its file says it is made for."""
        if self.path is None:
            return isotropic_gaussian(GAUSSIAN_SIDE, self.width or 0.0), None
        from degradations.kernels.files import Bank  # loads SciPy's readers, which few calls want

        bank = Bank.read(self.path)
        count, index = len(bank.kernels), self.index or 0
        if index >= count or (count > 1 and self.index is None):
            found = "no index" if self.index is None else f"index {self.index}"
            raise ValueError(f"found {found}, but {self.path} holds {count} kernels, counted from 0")
        return bank.kernels[index], bank.scale

    def conditions(self, scale: int) -> dict[str, Tensor]:
        """Return `kernel` (1, k, k) and `sigma` (1,), float32.

        Raises OptionError for a scale that no Gaussian is made for, or another than the kernel's file says.
        """
        kernel, made_for = self._kernel
        if self.path is None:
            if scale > GAUSSIAN_SIDE // 2:
                raise OptionError(f"found scale {scale}, expected 1 to {GAUSSIAN_SIDE // 2} for a Gaussian kernel")
            kernel = shift_to_upper_left(kernel, scale)
        elif made_for not in (None, scale):
            raise OptionError(
                f"{self.path}: says that its kernel is for scale {made_for}, but images are enlarged by {scale}; use "
                f"--scale {made_for}, or a kernel made for {scale}"
            )
        return {"kernel": torch.from_numpy(kernel).float()[None], "sigma": torch.tensor([self.noise_level / 255])}

    def __str__(self) -> str:
        kernel = f"kernel {self.index or 0} of {self.path}" if self.path else f"a Gaussian of width {self.width:g}"
        return f"{kernel}, noise level {self.noise_level:g}"


# --- periodic borders ------------------------------------------------------------------------------------------------


def extended(lq: Tensor, scale: int, kernel_side: int) -> Tensor:
    """Continue (B, C, h, w) on the CPU beyond the bottom and the right, so that a network may take it as periodic.

    As USRNet's tool does it, on the grid of the result: the image enlarged by nearest neighbours is extended to
    multiples of 8, by 16 pixels or more (or the reach of a larger kernel); of that every `scale`-th pixel.
    """
    margin = max(MARGIN, kernel_side // 2 + 1)
    height, width = (-(-(side * scale + margin) // MULTIPLE) * MULTIPLE for side in lq.shape[-2:])
    enlarged = F.interpolate(lq, scale_factor=scale, mode="nearest")
    return wrap_extension(enlarged, (height, width))[..., ::scale, ::scale]


def wrap_extension(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Extend (..., h, w) on the CPU to (..., *size) so that it goes on smoothly where it is repeated periodically.

    What is added solves Laplace's equation between an edge and the opposite one (Liu and Jia, Reducing Boundary
    Artifacts in Image Deconvolution, ICIP 2008). Computed in float64, in the dtype of `image`.

    Raises:
        ValueError: if fewer than 2 pixels are to be added along an axis.
    """
    pixels = image.double().numpy()
    height, width = pixels.shape[-2:]
    below, beside = size[0] - height, size[1] - width
    if min(below, beside) < 2:
        raise ValueError(
            f"found an image of {height}x{width} to extend to {size[0]}x{size[1]} (height x width), expected 2 more "
            "pixels or more along each axis"
        )
    bottom = _bridge(pixels[..., -1, :], pixels[..., 0, :], below)
    right = _bridge(pixels[..., -1], pixels[..., 0], beside).swapaxes(-1, -2)
    corner = np.zeros((*pixels.shape[:-2], below + 2, beside + 2))
    corner[..., 0, :], corner[..., -1, :] = right[..., -1, :], right[..., 0, :]
    corner[..., 0], corner[..., -1] = bottom[..., -1], bottom[..., 0]
    corner = _harmonic(corner)[..., 1:-1, 1:-1]
    # Quirk: below, the released code repeats the image's last row and leaves out the last row that it solved for.
    rows = (np.concatenate(pair, -1) for pair in ((pixels, right[..., 1:-1]), (bottom[..., :-2, :], corner)))
    return torch.from_numpy(np.concatenate([*rows], -2)).to(image.dtype)


def _bridge(first: np.ndarray, last: np.ndarray, count: int) -> np.ndarray:
    """Return (..., count + 2, w), from row `first` (..., w) to row `last`, linear at both ends of the rows between."""
    frame = np.zeros((*first.shape[:-1], count + 2, first.shape[-1]))
    frame[..., 0, :], frame[..., -1, :] = first, last
    t = np.linspace(0, 1, count)
    for side in (0, -1):
        frame[..., 1:-1, side] = (1 - t) * first[..., side, None] + t * last[..., side, None]
    return _harmonic(frame)


def _harmonic(frame: np.ndarray) -> np.ndarray:
    """Fill the inside of (..., m + 2, n + 2), where each pixel becomes the mean of its four neighbours.

    The sine transform (DST-I) diagonalises the discrete Laplacian that is zero on the rim.
    """
    m, n = frame.shape[-2] - 2, frame.shape[-1] - 2
    if n > 0:
        from scipy.fft import dstn, idstn  # only images told a kernel want it

        rim = frame.copy()
        rim[..., 1:-1, 1:-1] = 0
        sources = rim[..., :-2, 1:-1] + rim[..., 2:, 1:-1] + rim[..., 1:-1, :-2] + rim[..., 1:-1, 2:]
        down, across = (2 - 2 * np.cos(np.pi * np.arange(1, k + 1) / (k + 1)) for k in (m, n))
        waves = dstn(sources, type=1, axes=(-2, -1)) / (down[:, None] + across)
        frame[..., 1:-1, 1:-1] = idstn(waves, type=1, axes=(-2, -1))
    return frame
