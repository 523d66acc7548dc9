"""Gaussian blur whose kernel changes smoothly over the image."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from degradations.operations.filters import Border, convolve, pad
from degradations.operations.ragged import Ragged, Size

Widths = tuple[float, float, float]
"""Of a Gaussian: the variance along its first axis, that across, and the first axis' angle θ (see `elliptic`)."""


def covariances(widths: Sequence[Sequence[float]]) -> np.ndarray:
    """Return covariance matrices (n, 2, 2) in (x right, y down) coordinates."""
    first, second, theta = np.asarray(widths, float).T
    axes = np.stack([np.cos(theta), -np.sin(theta), np.sin(theta), np.cos(theta)], -1).reshape(-1, 2, 2)
    return axes * np.stack([first, second], -1)[:, None] @ axes.transpose(0, 2, 1)


def widths_between(corners: Sequence[Sequence[float]], down: np.ndarray, across: np.ndarray) -> list[Widths]:
    """Return the widths at each pair of heights `down` and places `across`, row by row, as fractions of an image.

    Covariances go bilinearly from corner to corner (upper left, upper right, lower left, lower right), so that a
    kernel turns the short way and no variance leaves the corners' range.
    """
    y, x = (axis.ravel() for axis in np.meshgrid(down, across, indexing="ij"))
    shares = np.stack([(1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x], -1)
    variances, axes = np.linalg.eigh(np.einsum("nc,cij->nij", shares, covariances(corners)))
    # Cut, since a variance of 0 may come out below it.
    return [
        (max(float(v[1]), 0.0), max(float(v[0]), 0.0), float(np.arctan2(a[1, 1], a[0, 1])))
        for v, a in zip(variances, axes, strict=True)
    ]


def nodes(size: Size, canvas: Size, tile: int) -> tuple[np.ndarray, np.ndarray]:
    """Tell where the kernels of `convolve_varying` stand on a canvas, as fractions of an image of `size` in it."""
    down, across = (
        np.minimum(np.arange(-(-room // tile) + 1) * tile / side, 1) for side, room in zip(size, canvas, strict=True)
    )
    return down, across


def convolve_varying(
    images: Ragged, kernels: Sequence[Sequence[np.ndarray]], tile: int, border: Border = "mirror"
) -> Ragged:
    """Blur each image with its own grid of kernels, one every `tile` pixels from the upper left pixel on.

    `kernels[i]` are those of image i row by row: ceil(H / tile) + 1 rows of ceil(W / tile) + 1, all of one odd size,
    with (H, W) the size of the tensor. Between four of them lies the bilinear mixture of the four blurred images.
    """
    height, width = images.data.shape[-2:]
    rows, columns = (-(-side // tile) + 1 for side in (height, width))
    side, channels = 2 * tile, images.data.shape[1]
    radius = kernels[0][0].shape[0] // 2
    # Each kernel blurs the 2·tile pixels around it; what a kernel on the border has outside the image is not used.
    room = (tile, columns * tile - width, tile, rows * tile - height)
    patches = F.unfold(F.pad(pad(images, radius, border), room), side + 2 * radius, stride=tile)
    patches = patches.transpose(1, 2).reshape(-1, channels, side + 2 * radius, side + 2 * radius)
    blurred = convolve(Ragged.of(patches), [kernel for grid in kernels for kernel in grid], "replicate").data
    hat = 1 - (torch.arange(side, device=patches.device) - tile).abs() / tile
    blurred = blurred[..., radius : radius + side, radius : radius + side] * (hat[:, None] * hat)
    columns_of_patches: Tensor = blurred.reshape(len(kernels), rows * columns, -1).transpose(1, 2)
    whole = F.fold(columns_of_patches, ((rows + 1) * tile, (columns + 1) * tile), side, stride=tile)
    return Ragged(whole[..., tile : tile + height, tile : tile + width], images.sizes)
