"""Whole images that are degraded alike each time: what validation and benchmarks measure on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data.source import SourceEntry
from data.training import Sample, collate, degradation_of, degrade, to_tensor
from degradations import Batch, Degradation
from utils.options.fields import OptionError
from utils.seeding import validation_stream

END_OF_SCHEDULES = 2**62
"""An iteration past every schedule."""


@dataclass(frozen=True)
class ValidationItem:
    """One validation image: (1, C, …) tensors on the CPU, with the plan that made it."""

    name: str
    batch: Batch

    @property
    def gt(self) -> Tensor:
        """Return the plain ground truth (1, C, H, W)."""
        return self.batch.targets["plain"]


class RefusedImageError(OptionError):
    """An image that its degradation cannot be applied to, such as one thinner than a kernel."""


class ValidationSet:
    """Whole images with frozen degradations: they depend on (validation seed, set name, index) alone. `gray` ones have
    one channel."""

    def __init__(
        self,
        name: str,
        entry: SourceEntry,
        default: Degradation,
        *,
        seed: int,
        scale: int,
        section: str = "data.validation",
        gray: bool = False,
    ) -> None:
        self.name, self.entry, self.seed, self.scale, self.gray = name, entry, seed, scale, gray
        self.degradation = degradation_of(entry, default, scale, f"{section}.{name}")

    def __len__(self) -> int:
        return len(self.entry.source) * self.entry.repeats

    def remarks(self) -> list[str]:
        """Say which files are left out and what reading changes in the images."""
        return self.entry.source.remarks()

    def item_name(self, number: int) -> str:
        """Return the name of an item: its image's, with a number where one image is degraded several times."""
        index, again = number % len(self.entry.source), number // len(self.entry.source)
        path = Path(self.entry.source.name(index))
        return str(path.with_stem(f"{path.stem}_{again}") if again else path)

    def __getitem__(self, number: int) -> ValidationItem:
        """Return an image. Raises UnreadableImageError for a file that cannot be read, since a set must be whole, and
        RefusedImageError for one that the degradation refuses."""
        source = self.entry.source
        index = number % len(source)
        given = source.read_lq(index) if self.degradation.starts_from_lq else None
        gt, lq = _window(source.read(index), given, self.scale, self.entry.crop, self.entry.multiple)
        rng = validation_stream(self.seed, self.name, number)
        # A range that follows a schedule stands at its end: validation does not move with the training.
        shared = {**self.degradation.draw_shared(rng), "scale": self.scale}
        path = source.name(index)
        try:
            plan = self.degradation.sample(rng, (gt.shape[0], gt.shape[1]), END_OF_SCHEDULES, shared)
        except ValueError as error:
            raise RefusedImageError(f"{self.name}, {path}: {error}") from error
        sample = Sample([to_tensor(gt)], [None if lq is None else to_tensor(lq)], [plan], [path])
        batch = degrade(collate([sample]), [self.degradation], torch.device("cpu"))
        return ValidationItem(self.item_name(number), batch.gray() if self.gray else batch)


def _window(
    gt: np.ndarray, lq: np.ndarray | None, scale: int, crop: int | None, multiple: int = 1
) -> tuple[np.ndarray, np.ndarray | None]:
    """Cut bottom and right to multiples of the scale (and of `multiple`); with `crop`, keep a central part on the
    low-quality grid."""
    unit = math.lcm(scale, multiple)
    height, width = (side // unit * unit // scale for side in gt.shape[:2])
    top = left = 0
    if crop is not None:
        kept = max(1, crop // scale)
        top, left = max(0, height - kept) // 2, max(0, width - kept) // 2
        height, width = min(height, kept), min(width, kept)
    rows, columns = slice(top * scale, (top + height) * scale), slice(left * scale, (left + width) * scale)
    return gt[rows, columns], None if lq is None else lq[top : top + height, left : left + width]
