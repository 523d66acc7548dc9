"""Convolution of ragged batches.

It stands twice. On the CPU the fastest of three ways is taken, image by image: OpenCV's filters, for long rows products
with bands, for large kernels products of spectra. On a device it is one batched product of spectra. Tests hold them
against each other.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor

from degradations.kernels.families import square
from degradations.operations.bands import Bands, map_axes
from degradations.operations.ragged import Ragged, Size, on_device

Border = Literal["mirror", "symmetric", "replicate", "wrap"]

_CV2_BORDER = {
    "mirror": cv2.BORDER_REFLECT_101,
    "symmetric": cv2.BORDER_REFLECT,
    "replicate": cv2.BORDER_REPLICATE,
    "wrap": cv2.BORDER_WRAP,
}
_TORCH_BORDER = {"mirror": "reflect", "replicate": "replicate", "wrap": "circular"}


def convolve(images: Ragged, kernels: Sequence[np.ndarray], border: Border = "mirror") -> Ragged:
    """Convolve each image with its own kernel (odd size; the kernel is flipped, as in scipy.ndimage.convolve).

    A kernel may be given as a row (k,): its outer product with itself is meant, and applied separably. `mirror` does
    not repeat the edge pixel, `symmetric` does (SciPy's "reflect"). Not clipped.

    >>> images = Ragged.pack([torch.rand(3, 8, 8), torch.rand(3, 4, 6)])
    >>> blurred = convolve(images, [np.full((3, 3), 1 / 9), np.full(5, 1 / 5)])
    >>> blurred.sizes
    ((8, 8), (4, 6))
    """
    if images.one_by_one:
        return images.per_image(lambda image, i: _convolve_one(image, kernels[i], border))
    return convolve_batched(images, kernels, border)


def _trimmed(kernel: np.ndarray) -> np.ndarray:
    """Cut off margins that together weigh less than 1e-7: a narrow Gaussian in a large frame is common."""
    outside = np.bincount(_depths(kernel.shape[0], kernel.ndim), np.abs(kernel).ravel()).cumsum()
    margin = int((outside <= 1e-7 * outside[-1]).sum())
    return kernel[(slice(margin, kernel.shape[0] - margin),) * kernel.ndim]


@lru_cache(maxsize=64)
def _depths(size: int, ndim: int) -> np.ndarray:
    """Return how far from the frame's edge each number of a kernel stands, in reading order."""
    depth = np.minimum(np.arange(size), np.arange(size)[::-1])
    return np.minimum.outer(depth, depth).ravel() if ndim == 2 else depth


def _convolve_one(image: Tensor, kernel: np.ndarray, border: Border) -> Tensor:
    kernel, pixels = _trimmed(kernel), image[0].numel()
    if kernel.ndim == 2 and kernel.shape[0] > 9 and pixels > 80**2:
        # Above 11 taps OpenCV transforms too, but takes longer.
        return _by_spectra(image, kernel, border)
    # What wraps reaches over the whole axis, which is no band.
    if kernel.ndim == 1 and len(kernel) > (13 if pixels > 200**2 else 25) and border != "wrap":
        return map_axes(image, *row_bands(kernel, (image.shape[1], image.shape[2]), border))
    radius = kernel.shape[0] // 2
    flag = _CV2_BORDER[border]
    planes = [plane.numpy() for plane in image]
    if border == "wrap":  # OpenCV's filters do not wrap, its padding does
        planes = [cv2.copyMakeBorder(p, radius, radius, radius, radius, flag) for p in planes]
        flag = cv2.BORDER_REPLICATE
    result = np.empty((len(planes), *planes[0].shape), np.float32)
    weights = np.ascontiguousarray(np.flip(kernel), np.float32)
    for c, plane in enumerate(planes):
        if kernel.ndim == 1:
            cv2.sepFilter2D(plane, -1, weights, weights, result[c], borderType=flag)
        else:
            cv2.filter2D(plane, -1, weights, result[c], borderType=flag)
    inner = slice(radius, -radius or None) if border == "wrap" else slice(None)
    return torch.from_numpy(result)[:, inner, inner]


def _by_spectra(image: Tensor, kernel: np.ndarray, border: Border) -> Tensor:
    """Convolve an image (C, H, W) on the CPU by FFT.

    A real kernel keeps real and imaginary parts apart, so that the upper half of a plane and the lower one go through
    one complex transform: three quarters of the time of real ones. It works plane by plane, which the cache holds.
    """
    radius, (height, width) = kernel.shape[0] // 2, image.shape[1:]
    margin, half = 2 * radius, -(-height // 2)
    rows, columns = (8 * next_fast_len(-(-(side + margin) // 8)) for side in (half, width))  # pyright: ignore[reportOperatorIssue]
    # One axis after the other, so that the columns of nothing beside a kernel are not transformed.
    spectrum = torch.fft.fft(torch.fft.fft(torch.from_numpy(kernel.astype(np.float32)), rows, dim=0), columns)
    joined, result = np.zeros((rows, columns), np.complex64), np.empty(image.shape, np.float32)
    for plane, made in zip(image.numpy(), result, strict=True):
        padded = cv2.copyMakeBorder(plane, radius, radius, radius, radius, _CV2_BORDER[border])
        joined.real[: half + margin, : width + margin] = padded[: half + margin]
        joined.imag[: height - half + margin, : width + margin] = padded[half:]
        blurred = torch.fft.ifft2(torch.fft.fft2(torch.from_numpy(joined)).mul_(spectrum)).numpy()
        made[:half] = blurred.real[margin : margin + half, margin : margin + width]
        made[half:] = blurred.imag[margin : margin + height - half, margin : margin + width]
    return torch.from_numpy(result)


def row_bands(row: np.ndarray, size: Size, border: Border = "mirror") -> tuple[Bands, Bands]:
    """Return the maps of both axes that convolve an image of this size with a row (k,), its border included."""
    height, width = (_blur(row.tobytes(), length, border) for length in size)
    return height, width


@lru_cache(maxsize=16)
def _blur(row: bytes, length: int, border: Border) -> Bands:
    """Return the blur of an axis by the bytes of a row, border included. That of sharpening comes again and again."""
    taps = np.frombuffer(row)
    places = _border_index(length, length, len(taps) // 2, border)
    return Bands.of(
        np.lib.stride_tricks.sliding_window_view(places, len(taps)), np.tile(taps[::-1], (length, 1)), length
    )


def convolve_batched(images: Ragged, kernels: Sequence[np.ndarray], border: Border = "mirror") -> Ragged:
    """Do as `convolve` for all images at once, by FFT; kernels of different sizes are centred in the largest."""
    device = images.data.device
    squares = [square(k) for k in (kernels[:1] if all(k is kernels[0] for k in kernels) else kernels)]
    size = max(k.shape[0] for k in squares)
    stacked = np.zeros((len(squares), 1, size, size), np.float32)
    for (canvas,), k in zip(stacked, squares, strict=True):
        margin = (size - k.shape[0]) // 2
        canvas[margin : margin + k.shape[0], margin : margin + k.shape[0]] = k
    padded = pad(images, size // 2, border)
    shape = [16 * next_fast_len(-(-side // 16)) for side in padded.shape[-2:]]  # pyright: ignore[reportOperatorIssue]
    # One axis after the other, so that the rows of nothing below a kernel are not transformed.
    spectra = torch.fft.fft(torch.fft.rfft(on_device(stacked, device), shape[1]), shape[0], dim=-2)
    made = torch.fft.irfft2(torch.fft.rfft2(padded, s=shape).mul_(spectra), s=shape)
    rows, columns = (slice(size - 1, size - 1 + length) for length in images.data.shape[-2:])
    return Ragged(made[..., rows, columns].contiguous(), images.sizes)


def pad(images: Ragged, radius: int, border: Border) -> Tensor:
    """Extend each image at its own borders, (B, C, H + 2r, W + 2r); beyond its extension lies its last pixel."""
    device, canvas = images.data.device, (images.data.shape[-2], images.data.shape[-1])
    if set(images.sizes) == {canvas} and radius < min(canvas) and border in _TORCH_BORDER:
        return F.pad(images.data, (radius,) * 4, mode=_TORCH_BORDER[border])
    rows, columns = (
        on_device(np.stack([_border_index(s[axis], canvas[axis], radius, border) for s in images.sizes]), device)
        for axis in (0, 1)
    )
    batch = torch.arange(len(images.sizes), device=device)[:, None, None]
    return images.data.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@lru_cache(maxsize=512)
def _border_index(length: int, canvas: int, radius: int, border: Border) -> np.ndarray:
    at = np.minimum(np.arange(-radius, canvas + radius), length - 1 + radius)
    if border == "replicate" or length == 1:
        return np.clip(at, 0, length - 1)
    if border == "wrap":
        return at % length
    if border == "symmetric":
        folded = at % (2 * length)
        return np.minimum(folded, 2 * length - 1 - folded)
    folded = np.abs(at) % (2 * (length - 1))
    return np.minimum(folded, 2 * (length - 1) - folded)
