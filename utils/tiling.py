"""Networks on images of any size: padded to what the network takes, and tile by tile where memory is short."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise, product
from typing import Literal

import torch
from torch import Tensor

TileMode = Literal["blend", "context"]

Window = tuple[int, Tensor]
"""Where a tile starts along one axis, in input pixels, and the weight of each of its output pixels there."""


def restore_tiled(
    network_fn: Callable[[Tensor], Tensor],
    lq: Tensor,
    scale: int,
    tile: int | None,
    overlap: int = 32,
    size_multiple: int = 1,
    mode: TileMode = "blend",
) -> Tensor:
    """Applies a network to an image of any size, from 1x1 up.

    By `blend`, tiles are all of one size (the last one of a row or column is shifted inwards) and overlap. In the
    overlap they are blended by a smooth ramp that leaves out the outermost quarter, where a tile knows least of its
    surroundings. By `context`, as Real-ESRGAN does it, the image is cut into tiles side by side; the network sees each
    with `overlap` pixels around it, as far as the image has them, and only the tile itself is kept.

    Args:
        network_fn: maps (B, C, h, w) to (B, D, h·scale, w·scale), on any device.
        lq: (B, C, h, w).
        tile: side of a tile in input pixels; None, or at least both sides of the image: the whole image at once.
            Rounded up to `size_multiple`.
        overlap: input pixels that neighbouring tiles share at least; by `context`, that are seen on each side, rounded
            up to `size_multiple`.
        size_multiple: both sides are padded at the bottom and right up to a multiple of this by `mirrored`; the
            result is cropped.
        mode: what becomes of the pixels that tiles share.

    Returns:
        (B, D, h·scale, w·scale) float32 on the CPU. With tiles, the network's memory depends on them alone.

    Raises:
        ValueError: the overlap does not fit the tile, or the network's output has another size.
    """
    height, width = lq.shape[-2:]
    padded = mirrored(lq, -height % size_multiple, -width % size_multiple)
    if tile is None:
        tile = max(padded.shape[-2:])
    elif tile < 1 or overlap < 0 or (mode == "blend" and overlap >= tile):
        raise ValueError(f"tiles of {tile} pixels overlap by {overlap}, expected 0 to {tile - 1}")
    windows = _blended if mode == "blend" else _side_by_side
    rows, columns = (windows(length, tile, overlap, scale, size_multiple) for length in padded.shape[-2:])
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


def mirrored(image: Tensor, bottom: int, right: int) -> Tensor:
    """Pads (B, C, h, w) with its mirror image, the edge not repeated; what is too small is mirrored to and fro."""
    for axis, more in ((-2, bottom), (-1, right)):
        if more:
            length = image.shape[axis]
            there = torch.arange(length + more, device=image.device) % max(1, 2 * length - 2)
            image = image.index_select(axis, torch.minimum(there, 2 * length - 2 - there))
    return image


def _side_by_side(length: int, tile: int, context: int, scale: int, multiple: int) -> list[Window]:
    """Tiles with context along one axis; the weights are 1 on the tile and 0 on its context."""
    tile, context = (side + -side % multiple for side in (tile, context))
    windows = []
    for start in range(0, length, tile):
        first, last = max(0, start - context), min(length, start + tile + context)
        weight = torch.zeros((last - first) * scale)
        weight[(start - first) * scale :][: tile * scale] = 1
        windows.append((first, weight))
    return windows


def _blended(length: int, tile: int, overlap: int, scale: int, multiple: int) -> list[Window]:
    """Overlapping tiles along one axis; their weights sum to 1 at every output pixel."""
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
