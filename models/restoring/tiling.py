"""Networks on images of any size: padded to what the network takes, and tile by tile where memory is short."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby, pairwise, product
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from models.networks.blocks import mirrored_part
from utils.processes.threads import one_ahead

TileMode = Literal["blend", "context"]

Window = tuple[int, Tensor]
"""Where a tile starts along one axis, in input pixels, and the weight of each of its output pixels there."""


@dataclass(frozen=True)
class Whole:
    """The image in one piece."""

    def windows(self, length: int, scale: int, multiple: int) -> list[Window]:
        """Cut one axis of `length` input pixels into tiles that start at multiples of `multiple`; at every output pixel
        the weights add up to 1."""
        return [(0, torch.ones(length * scale))]


@dataclass(frozen=True)
class Context:
    """Tiles side by side, as Real-ESRGAN cuts: the network sees each with `context` pixels around it, as far as the
    image has them, and only the tile itself is kept. Both sizes are rounded up to the network's multiple."""

    side: int
    context: int = 32

    def __post_init__(self) -> None:
        if self.side < 1 or self.context < 0:
            raise ValueError(f"found tiles of {self.side} pixels with {self.context} around them, expected 1 and 0 up")

    @property
    def seen(self) -> int:
        """Return the side of what the network sees at once."""
        return self.side + 2 * self.context

    def windows(self, length: int, scale: int, multiple: int) -> list[Window]:
        """Cut one axis, as `Whole.windows`; the weights are 1 on the tile and 0 on its context."""
        side, context = (size + -size % multiple for size in (self.side, self.context))
        windows = []
        for start in range(0, length, side):
            first, last = max(0, start - context), min(length, start + side + context)
            weight = torch.zeros((last - first) * scale)
            weight[(start - first) * scale :][: side * scale] = 1
            windows.append((first, weight))
        return windows


@dataclass(frozen=True)
class Blended:
    """Tiles of one size (the last of a row or column is shifted inwards) that share at least `overlap` pixels. There
    they are blended by a smooth ramp that leaves out the outermost quarter, where a tile knows least of its
    surroundings. The size is rounded up to the network's multiple."""

    side: int
    overlap: int = 32

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.side:
            raise ValueError(f"tiles of {self.side} pixels overlap by {self.overlap}, expected 0 to {self.side - 1}")

    @property
    def seen(self) -> int:
        """Return the side of what the network sees at once."""
        return self.side

    def windows(self, length: int, scale: int, multiple: int) -> list[Window]:
        """Cut one axis, as `Whole.windows`; the weights rise and fall where tiles overlap."""
        side = min(length, self.side + -self.side % multiple)
        # Starts on the grid of the multiple: a network that unshuffles pixels must see each in the same phase.
        step = max(multiple, (side - self.overlap) // multiple * multiple)
        starts = [*range(0, length - side, step), length - side]
        total = torch.zeros(length * scale, dtype=torch.float64)
        weights = []
        for index, start in enumerate(starts):
            weight = torch.ones(side * scale, dtype=torch.float64)
            if index > 0:
                weight *= _ramp(side * scale, self.overlap * scale)
            if index < len(starts) - 1:
                weight *= _ramp(side * scale, self.overlap * scale).flip(0)
            total[start * scale : (start + side) * scale] += weight
            weights.append(weight)
        assert all(b - a <= step for a, b in pairwise(starts)) and bool((total > 0).all())
        return [
            (start, (weight / total[start * scale : (start + side) * scale]).float())
            for start, weight in zip(starts, weights, strict=True)
        ]


Tiling = Whole | Context | Blended


class Rows:
    """An image (1, C, h, w) that is read from top to bottom, and of which no more is held than the last part's rows.

    Args:
        size: (h, w).
        bands: arrays (n, w, C) that make it up.
    """

    def __init__(self, size: tuple[int, int], bands: Iterator[np.ndarray]) -> None:
        self.bands, self.top, self.held = bands, 0, next(bands)
        self.shape = (1, self.held.shape[2], *size)

    def part(self, top: int, left: int, height: int, width: int) -> Tensor:
        """Cut out, as `mirrored_part` does. `top` never decreases from call to call."""
        end = min(top + height, self.shape[-2])
        if end > self.top + len(self.held):
            parts = [self.held[top - self.top :]]
            while sum(map(len, parts)) < end - top:
                parts.append(next(self.bands))
            self.top, self.held = top, np.concatenate(parts)
        image = torch.from_numpy(self.held).permute(2, 0, 1)[None]
        return mirrored_part(image, top - self.top, left, height, width)


def _ramp(length: int, overlap: int) -> Tensor:
    """Return a rise from 0 over the first quarter of the overlap to 1 over its last, smoothly (3t² - 2t³) between."""
    if overlap == 0:
        return torch.ones(length, dtype=torch.float64)
    centres = torch.arange(length, dtype=torch.float64) + 0.5
    t = ((centres - overlap / 4) / (overlap / 2)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def restored_bands(
    network_fn: Callable[[Tensor], Tensor],
    lq: Tensor | Rows,
    scale: int,
    tiling: Tiling,
    *,
    size_multiple: int = 1,
    batch: int = 1,
    threaded: bool = False,
) -> Iterator[Tensor]:
    """Apply a network to an image of any size, from 1x1 up, and give the result in bands from top to bottom.

    Args:
        network_fn: maps (N, C, h, w) to (N, D, h·scale, w·scale), on any device; N is up to B·batch.
        lq: (B, C, h, w), of any type; rows are read as they are needed.
        tiling: how the image is cut up.
        size_multiple: both sides are padded at the bottom and right up to a multiple of this, as by `mirrored`; the
            result is cropped.
        batch: tiles of one size in a call of the network.
        threaded: call the network in a thread, for the next tiles while the last ones are put together.

    Yields:
        (B, D, n, w·scale) float32 on the CPU, n up to 4·scale; the bands' heights add up to h·scale. With tiles, the
        network's memory depends on them alone, and beside it no more than a row of tiles is held.

    Raises:
        ValueError: the network's output has another size.
    """
    height, width = lq.shape[-2:]
    cut = lq.part if isinstance(lq, Rows) else partial(mirrored_part, lq)
    rows, columns = (tiling.windows(side + -side % size_multiple, scale, size_multiple) for side in (height, width))

    def run(call: tuple[Window, Sequence[Window]]) -> list[Tensor]:
        (top, down), group = call
        parts = [cut(top, left, len(down) // scale, len(across) // scale) for left, across in group]
        sr = network_fn(torch.cat(parts)).float().cpu()
        if sr.shape[-2:] != (len(down), len(group[0][1])):
            shape = (len(sr), *parts[0].shape[1:])
            raise ValueError(f"the network turned {shape} into {tuple(sr.shape)}, expected scale {scale}")
        return list(sr.chunk(len(group)))

    tiles = chain.from_iterable((one_ahead if threaded else map)(run, product(rows, _groups(columns, batch))))
    above: list[Tensor] = []  # what the rows so far gave to the next, handed over so that it is not held twice
    for (top, down), below in zip(rows, [*(start for start, _ in rows[1:]), height], strict=True):
        row = _row(down, columns, scale, tiles, above)
        done = row[..., : (below - top) * scale, :]
        above.append(row[..., (below - top) * scale :, :].clone())
        # As copies: a view that someone still looks at would keep this row beside the next.
        yield from (part[..., : width * scale].clone() for part in done.split(4 * scale, -2) if part.shape[-2])
        del row, done


def _row(down: Tensor, columns: Sequence[Window], scale: int, tiles: Iterator[Tensor], above: list[Tensor]) -> Tensor:
    """Weight a row of tiles and add it up, on what the row above gave to its first lines."""
    row: Tensor | None = None
    for (left, across), sr in zip(columns, tiles, strict=False):  # what is left of the tiles is for the next rows
        if row is None:
            row = sr.new_zeros(*sr.shape[:-1], columns[-1][0] * scale + len(columns[-1][1]))
            if above:
                row[..., : above[0].shape[-2], :] = above[0]
                above.clear()
        row[..., left * scale :][..., : len(across)] += (sr * down[:, None]).mul_(across)
    assert row is not None
    return row


def _groups(columns: Sequence[Window], batch: int) -> list[list[Window]]:
    """Group neighbouring windows of one length, up to `batch` of them."""
    runs = (list(run) for _, run in groupby(columns, lambda window: len(window[1])))
    return [run[i : i + batch] for run in runs for i in range(0, len(run), batch)]
