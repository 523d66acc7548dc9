"""Networks on images of any size: padded to what the network takes, and tile by tile where memory is short."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, groupby, pairwise, product
from typing import Literal

import torch
from torch import Tensor

from models.networks.blocks import mirrored_part
from utils.processes.threads import one_ahead

TileMode = Literal["blend", "context"]

Window = tuple[int, Tensor]
"""Where a tile starts along one axis, in input pixels, and the weight of each of its output pixels there."""


def restored_bands(
    network_fn: Callable[[Tensor], Tensor],
    lq: Tensor,
    scale: int,
    tile: int | None,
    overlap: int = 32,
    size_multiple: int = 1,
    mode: TileMode = "blend",
    batch: int = 1,
    threaded: bool = False,
) -> Iterator[Tensor]:
    """Applies a network to an image of any size, from 1x1 up, and gives the result in bands from top to bottom.

    By `blend`, tiles are all of one size (the last one of a row or column is shifted inwards) and overlap. In the
    overlap they are blended by a smooth ramp that leaves out the outermost quarter, where a tile knows least of its
    surroundings. By `context`, as Real-ESRGAN does it, the image is cut into tiles side by side; the network sees each
    with `overlap` pixels around it, as far as the image has them, and only the tile itself is kept.

    Args:
        network_fn: maps (N, C, h, w) to (N, D, h·scale, w·scale), on any device; N is up to B·batch.
        lq: (B, C, h, w), of any type.
        tile: side of a tile in input pixels; None, or at least both sides of the image: the whole image at once.
            Rounded up to `size_multiple`.
        overlap: input pixels that neighbouring tiles share at least; by `context`, that are seen on each side, rounded
            up to `size_multiple`.
        size_multiple: both sides are padded at the bottom and right up to a multiple of this, as by `mirrored`; the
            result is cropped.
        mode: what becomes of the pixels that tiles share.
        batch: tiles of one size in a call of the network.
        threaded: call the network in a thread, for the next tiles while the last ones are blended.

    Yields:
        (B, D, n, w·scale) float32 on the CPU, n up to 64·scale; the bands' heights add up to h·scale. With tiles, the
        network's memory depends on them alone, and beside it no more than a row of tiles is held.

    Raises:
        ValueError: the overlap does not fit the tile, or the network's output has another size.
    """
    height, width = lq.shape[-2:]
    padded = [side + -side % size_multiple for side in (height, width)]
    if tile is None:
        tile = max(padded)
    elif tile < 1 or overlap < 0 or (mode == "blend" and overlap >= tile):
        raise ValueError(f"tiles of {tile} pixels overlap by {overlap}, expected 0 to {tile - 1}")
    windows = _blended if mode == "blend" else _side_by_side
    rows, columns = (windows(length, tile, overlap, scale, size_multiple) for length in padded)

    def run(call: tuple[Window, Sequence[Window]]) -> list[Tensor]:
        (top, down), group = call
        parts = [mirrored_part(lq, top, left, len(down) // scale, len(across) // scale) for left, across in group]
        sr = network_fn(torch.cat(parts)).float().cpu()
        if sr.shape[-2:] != (len(down), len(group[0][1])):
            shape = (len(sr), *parts[0].shape[1:])
            raise ValueError(f"the network turned {shape} into {tuple(sr.shape)}, expected scale {scale}")
        return list(sr.chunk(len(group)))

    tiles = chain.from_iterable((one_ahead if threaded else map)(run, product(rows, _groups(columns, batch))))
    band: Tensor | None = None
    for (top, down), below in zip(rows, [*(start for start, _ in rows[1:]), height], strict=True):
        row = _row(down, columns, scale, tiles, band)
        done, band = row.tensor_split([(below - top) * scale], -2)
        yield from (part[..., : width * scale] for part in done.split(64 * scale, -2) if part.shape[-2])


def _row(down: Tensor, columns: Sequence[Window], scale: int, tiles: Iterator[Tensor], above: Tensor | None) -> Tensor:
    """A row of tiles, weighted and added up, on what the row above gave to its first lines."""
    row: Tensor | None = None
    for (left, across), sr in zip(columns, tiles, strict=False):  # what is left of the tiles is for the next rows
        if row is None:
            row = sr.new_zeros(*sr.shape[:-1], columns[-1][0] * scale + len(columns[-1][1]))
            if above is not None:
                row[..., : above.shape[-2], :] = above
        row[..., left * scale :][..., : len(across)] += (sr * down[:, None]).mul_(across)
    assert row is not None
    return row


def _groups(columns: Sequence[Window], batch: int) -> list[list[Window]]:
    """Neighbouring windows of one length, up to `batch` of them."""
    runs = (list(run) for _, run in groupby(columns, lambda window: len(window[1])))
    return [run[i : i + batch] for run in runs for i in range(0, len(run), batch)]


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
