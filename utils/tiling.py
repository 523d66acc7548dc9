"""Networks on images of any size: padded to what the network takes, and tile by tile where memory is short."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product

import torch
import torch.nn.functional as F
from torch import Tensor

Window = tuple[int, Tensor]
"""Where a tile starts along one axis, in input pixels, and the weight of each of its output pixels there."""


def restore_tiled(
    network_fn: Callable[[Tensor], Tensor],
    lq: Tensor,
    scale: int,
    tile: int | None,
    overlap: int = 32,
    size_multiple: int = 1,
) -> Tensor:
    """Applies a network to an image of any size, from 1x1 up.

    Tiles are all of one size (the last one of a row or column is shifted inwards) and overlap. In the overlap they
    are blended by a smooth ramp that leaves out the outermost quarter, where a tile knows least of its surroundings.

    Args:
        network_fn: maps (B, C, h, w) to (B, D, h·scale, w·scale), on any device.
        lq: (B, C, h, w).
        tile: side of a tile in input pixels; None, or at least both sides of the image: the whole image at once.
            Rounded up to `size_multiple`.
        overlap: input pixels that neighbouring tiles share at least.
        size_multiple: both sides are padded at the bottom and right up to a multiple of this (mirrored, or the edge
            repeated where the image is too small for that); the result is cropped.

    Returns:
        (B, D, h·scale, w·scale) float32 on the CPU. With tiles, the network's memory depends on the tile alone.

    Raises:
        ValueError: the overlap does not fit the tile, or the network's output has another size.
    """
    height, width = lq.shape[-2:]
    padded = pad_to_multiple(lq, size_multiple)
    if tile is None:
        tile = max(padded.shape[-2:])
    elif not 0 <= overlap < tile:
        raise ValueError(f"tiles of {tile} pixels overlap by {overlap}, expected 0 to {tile - 1}")
    rows = _windows(padded.shape[-2], tile, overlap, scale, size_multiple)
    columns = _windows(padded.shape[-1], tile, overlap, scale, size_multiple)
    result: Tensor | None = None
    for (top, down), (left, across) in product(rows, columns):
        part = padded[..., top : top + len(down) // scale, left : left + len(across) // scale]
        sr = network_fn(part).float().cpu()
        if sr.shape[-2:] != (len(down), len(across)):
            raise ValueError(f"the network turned {tuple(part.shape)} into {tuple(sr.shape)}, expected scale {scale}")
        if result is None:
            result = sr.new_zeros(*sr.shape[:-2], padded.shape[-2] * scale, padded.shape[-1] * scale)
        y, x = top * scale, left * scale
        result[..., y : y + len(down), x : x + len(across)] += sr * down[:, None] * across
    assert result is not None
    return result[..., : height * scale, : width * scale]


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Pads (B, C, h, w) at the bottom and right to multiples: mirrored, or the edge repeated if it is too small."""
    height, width = image.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if not (bottom or right):
        return image
    mode = "reflect" if bottom < height and right < width else "replicate"
    return F.pad(image, (0, right, 0, bottom), mode=mode)


def _windows(length: int, tile: int, overlap: int, scale: int, multiple: int) -> list[Window]:
    """The tiles along one axis; their weights sum to 1 at every output pixel."""
    tile = min(length, tile + -tile % multiple)
    # Starts on the grid of the multiple: a network that unshuffles pixels must see each in the same phase.
    step = max(multiple, (tile - overlap) // multiple * multiple)
    starts = [*range(0, length - tile, step), length - tile]
    total = torch.zeros(length * scale, dtype=torch.float64)
    weights = []
    for index, start in enumerate(starts):
        weight = torch.ones(tile * scale, dtype=torch.float64)
        if index > 0:
            weight *= _ramp(tile * scale, overlap * scale)
        if index < len(starts) - 1:
            weight *= _ramp(tile * scale, overlap * scale).flip(0)
        total[start * scale : (start + tile) * scale] += weight
        weights.append(weight)
    assert all(b - a <= step for a, b in pairwise(starts)) and bool((total > 0).all())
    return [
        (start, (weight / total[start * scale : (start + tile) * scale]).float())
        for start, weight in zip(starts, weights, strict=True)
    ]


def _ramp(length: int, overlap: int) -> Tensor:
    """0 over the first quarter of the overlap, 1 from its last quarter on, smooth (3t² - 2t³) between."""
    if overlap == 0:
        return torch.ones(length, dtype=torch.float64)
    centres = torch.arange(length, dtype=torch.float64) + 0.5
    t = ((centres - overlap / 4) / (overlap / 2)).clamp(0, 1)
    return t * t * (3 - 2 * t)
