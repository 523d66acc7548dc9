"""From images on disk to batches: reading, cropping, drawing plans, degrading; and the validation sets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

from data.sampler import index_of
from data.source import Source, SourceEntry, UnreadableImageError
from degradations import Batch, Degradation, Degraded, Plan, paired_crop
from utils.options.components import Spec
from utils.options.fields import Count, OptionError, PositiveInt
from utils.seeding import sample_stream, step_stream, validation_stream

MAX_ATTEMPTS = 50
"""Draws for one sample before the data set counts as unusable."""

END_OF_SCHEDULES = 2**62
"""An iteration past every schedule."""


@dataclass(frozen=True)
class DataOptions:
    """The `data` section of an option file.

    `crop_size` is the ground truth given to the degradation, `gt_size` what is left of it after the final paired
    crop (default: all). `small_images` says what happens to an image smaller than the crop: mirrored up to it, or
    left out. More than `max_unreadable` files that cannot be read stop the run.
    """

    train: Mapping[str, Spec[Source]]
    crop_size: PositiveInt
    batch_size: PositiveInt
    gt_size: PositiveInt | None = None
    workers: Count = 2
    augment: Literal["flips_and_turns", "flip", "none"] = "flips_and_turns"
    small_images: Literal["reflect", "skip"] = "reflect"
    max_unreadable: Count = 100
    validation: Mapping[str, Spec[Source]] = field(default_factory=dict)
    validation_seed: Count = 0
    pair_pool: Count = 0


@dataclass
class Samples:
    """A micro-batch as a loader worker hands it over.

    `gt` and `lq` (B, 3, H, W) are uint8, or float32 in [0, 1] from deeper images; `lq` stands only for paired data.
    `degraded` is filled where the degradation ran in the worker. `groups` gives each sample's source, `mishaps`
    the files that could not be used, with reasons.
    """

    gt: Tensor
    plans: list[Plan]
    paths: list[str]
    groups: list[int]
    lq: Tensor | None = None
    degraded: Degraded | None = None
    mishaps: list[tuple[str, str]] = field(default_factory=list)
    views: int = 1

    def pin_memory(self) -> Samples:
        """Called by the loader so that copies to the device need not wait."""
        self.gt = self.gt.pin_memory()
        if self.lq is not None:
            self.lq = self.lq.pin_memory()
        return self


def degradation_of(entry: SourceEntry, default: Degradation, scale: int, where: str) -> Degradation:
    """A source's own degradation, or the default. Raises OptionError where one has low-quality images to give and
    the other does not start from them, or the other way round."""
    chosen = default if entry.degradation is None else entry.degradation.component(scale=scale)
    if chosen.starts_from_lq and not entry.source.paired:
        raise OptionError(
            f"{where}: this source has no low-quality images, but its degradation needs them; choose a paired source, "
            "or a degradation that makes them"
        )
    if entry.source.paired and not chosen.starts_from_lq:
        raise OptionError(
            f"{where}: its degradation would make new low-quality images and ignore the given ones; add "
            "`degradation: none`, or name a source without them"
        )
    return chosen


@dataclass(frozen=True)
class Mix:
    """The training sources with the degradation of each, in the order of the option file."""

    entries: tuple[SourceEntry, ...]
    names: tuple[str, ...]
    degradations: tuple[Degradation, ...]

    @classmethod
    def build(cls, specs: Mapping[str, Spec[Source]], default: Degradation, scale: int) -> Mix:
        """Builds all sources. Raises OptionError for a source that does not suit its degradation."""
        entries, degradations = [], []
        for name, spec in specs.items():
            entry: SourceEntry = spec.build(scale=scale)  # type: ignore[assignment]
            degradations.append(degradation_of(entry, default, scale, f"data.train.{name}"))
            entries.append(entry)
        return cls(tuple(entries), tuple(specs), tuple(degradations))

    @property
    def counts(self) -> list[int]:
        """Images per source."""
        return [len(entry.source) for entry in self.entries]


@dataclass(frozen=True)
class Sample:
    """One training sample: images (3, H, W), low-quality ones where they are given, plans and paths, each by view."""

    gts: list[Tensor]
    lqs: list[Tensor | None]
    plans: list[Plan]
    paths: list[str]
    group: int
    mishaps: list[tuple[str, str]]


class TrainingSet(Dataset[Samples]):
    """Training samples by number; asked for a list of numbers, it gives a micro-batch.

    A sample depends on (run seed, stage, number) alone: not on workers, ranks, batch mates or what came before.
    """

    def __init__(
        self,
        mix: Mix,
        options: DataOptions,
        *,
        seed: int,
        stage: str,
        batch_size: int,
        in_worker: bool,
        views: int = 1,
        positive: str = "same_image_same_degradation",
    ) -> None:
        self.mix, self.options, self.seed, self.stage = mix, options, seed, stage
        self.batch_size, self.in_worker, self.views, self.positive = batch_size, in_worker, views, positive

    def __getitems__(self, numbers: Sequence[int]) -> Samples:
        return self.collate([self.sample(number) for number in numbers])

    def __getitem__(self, number: int) -> Samples:
        return self.__getitems__([number])

    def __len__(self) -> int:
        return 2**62  # endless

    def sample(self, number: int) -> Sample:
        """One sample: cropped and turned images, its plans, path, source number, and what could not be read."""
        mishaps: list[tuple[str, str]] = []
        iteration = number // self.batch_size
        for attempt in range(MAX_ATTEMPTS):
            rng = sample_stream(self.seed, self.stage, number, attempt)
            group, index = self._choose(number, attempt, rng)
            entry, degradation = self.mix.entries[group], self.mix.degradations[group]
            indices = [index] * self.views
            if self.positive == "other_image_same_degradation":
                count = len(entry.source)
                indices[1:] = [(index + int(rng.integers(1, max(count, 2)))) % count for _ in indices[1:]]
            read: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}
            try:
                for index in indices:
                    if index not in read:
                        read[index] = self._read(entry.source, index, degradation, rng)
            except UnreadableImageError as error:
                mishaps.append((entry.source.name(index), str(error)))
                continue
            shared = {**degradation.draw_shared(step_stream(self.seed, self.stage, iteration)), "training_crop": True}
            size = (self.options.crop_size, self.options.crop_size)
            plans = degradation.sample(rng, size, iteration, shared).views(self.views)
            if self.positive == "same_image_other_degradation":
                plans[1:] = [degradation.sample(rng, size, iteration, shared) for _ in plans[1:]]
            plans = [view.with_crop(rng, self.options.gt_size) for view in plans]
            gts, lqs = [_to_tensor(read[i][0]) for i in indices], [read[i][1] for i in indices]
            given = [None if lq is None else _to_tensor(lq) for lq in lqs]
            return Sample(gts, given, plans, [entry.source.name(i) for i in indices], group, mishaps)
        raise OptionError(
            f"data.train: {MAX_ATTEMPTS} images in a row could not be used, the last one: {mishaps[-1][1]}"
        )

    def _choose(self, number: int, attempt: int, rng: np.random.Generator) -> tuple[int, int]:
        counts = self.mix.counts
        group, index = index_of(number, self.seed, self.stage, counts, [entry.weight for entry in self.mix.entries])
        # A replacement comes from the same source, so that unreadable files do not change the shares.
        return group, index if attempt == 0 else int(rng.integers(counts[group]))

    def _read(
        self, source: Source, index: int, degradation: Degradation, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray | None]:
        gt = source.read(index)
        scale, crop = degradation.scale, self.options.crop_size
        lq = source.read_lq(index) if degradation.starts_from_lq else None
        if min(gt.shape[:2]) < crop:
            if self.options.small_images == "skip":
                raise UnreadableImageError(
                    f"{source.name(index)}: {gt.shape[1]}x{gt.shape[0]} is smaller than the crop of {crop}"
                )
            if lq is None:
                gt = reflect_to(gt, crop)
            else:
                gt, lq = reflect_pair(gt, lq, crop, scale)
        step = 1 if lq is None else scale  # a pair is cut on the low-quality grid
        top, left = (step * int(rng.integers((side - crop) // step + 1)) for side in gt.shape[:2])
        gt = gt[top : top + crop, left : left + crop]
        if lq is not None:
            lq = lq[top // scale : (top + crop) // scale, left // scale : (left + crop) // scale]
        turn = draw_augment(rng, self.options.augment)
        return augment(gt, *turn), None if lq is None else augment(lq, *turn)

    def collate(self, samples: Sequence[Sample]) -> Samples:
        """Stacks samples; views of one sample follow one another."""
        gts = [gt for sample in samples for gt in sample.gts]
        lqs = [lq for sample in samples for lq in sample.lqs]
        result = Samples(
            gt=_stack(gts),
            plans=[plan for sample in samples for plan in sample.plans],
            paths=[path for sample in samples for path in sample.paths],
            groups=[sample.group for sample in samples for _ in sample.gts],
            lq=None if all(lq is None for lq in lqs) else _stack([_or_empty(lq, gts, self.mix) for lq in lqs]),
            mishaps=[item for sample in samples for item in sample.mishaps],
            views=self.views,
        )
        if self.in_worker:
            result.degraded = _degrade_groups(result, self.mix.degradations, torch.device("cpu"))
            result.gt = result.gt[:0]  # no longer needed, not worth sending
        return result


def _or_empty(lq: Tensor | None, gts: Sequence[Tensor], mix: Mix) -> Tensor:
    scale = mix.degradations[0].scale
    return lq if lq is not None else gts[0].new_zeros(3, gts[0].shape[1] // scale, gts[0].shape[2] // scale)


def _to_tensor(image: np.ndarray) -> Tensor:
    """(3, H, W): uint8 stays, since a quarter of the bytes travels from worker to device; uint16 becomes float32."""
    array = np.ascontiguousarray(image.transpose(2, 0, 1))
    return torch.from_numpy(array) if array.dtype == np.uint8 else torch.from_numpy(array.astype(np.float32) / 65535)


def _stack(images: Sequence[Tensor]) -> Tensor:
    if len({image.dtype for image in images}) > 1:
        images = [as_float(image) for image in images]
    return torch.stack(list(images))


def as_float(image: Tensor) -> Tensor:
    """float32 in [0, 1] from uint8 or float."""
    return image.float() / 255 if image.dtype == torch.uint8 else image


def degrade(samples: Samples, degradations: Sequence[Degradation], device: torch.device) -> Batch:
    """Applies the plans of a micro-batch on a device and cuts the final crops."""
    if samples.degraded is None:
        degraded = _degrade_groups(samples, degradations, device)
    else:
        degraded = samples.degraded

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    return Batch(
        lq=move(degraded.lq),
        targets={name: move(target) for name, target in degraded.targets.items()},
        kernel=None if degraded.kernel is None else move(degraded.kernel),
        sigma=None if degraded.sigma is None else move(degraded.sigma),
        plans=samples.plans,
        paths=samples.paths,
        views=samples.views,
    )


@torch.no_grad()
def _degrade_groups(samples: Samples, degradations: Sequence[Degradation], device: torch.device) -> Degraded:
    gt = as_float(samples.gt.to(device, non_blocking=True))
    lq = None if samples.lq is None else as_float(samples.lq.to(device, non_blocking=True))
    parts: list[tuple[list[int], Degraded]] = []
    for group in sorted(set(samples.groups)):
        chosen = [i for i, g in enumerate(samples.groups) if g == group]
        plans = [samples.plans[i] for i in chosen]
        given = lq[chosen] if lq is not None and degradations[group].starts_from_lq else None
        whole = gt if len(chosen) == len(gt) else gt[chosen]
        parts.append((chosen, paired_crop(degradations[group].apply(whole, plans, given), plans)))
    if len(parts) == 1:
        return parts[0][1]
    order = torch.as_tensor([i for chosen, _ in parts for i in chosen], device=device).argsort()
    names = [n for n in parts[0][1].targets if all(n in part.targets for _, part in parts)]
    return Degraded(
        torch.cat([part.lq for _, part in parts])[order],
        {name: torch.cat([part.targets[name] for _, part in parts])[order] for name in names},
        _cat([part.kernel for _, part in parts], order),
        _cat([part.sigma for _, part in parts], order),
    )


def _cat(tensors: Sequence[Tensor | None], order: Tensor) -> Tensor | None:
    present = [t for t in tensors if t is not None]
    side = max((t.shape[-1] for t in present), default=0)
    # Kernels of different sizes stand in the middle of the largest.
    present = [pad(t, ((side - t.shape[-1]) // 2,) * 4) if t.dim() == 3 else t for t in present]
    return torch.cat(present)[order] if len(present) == len(tensors) else None


def reflect_to(image: np.ndarray, side: int) -> np.ndarray:
    """Mirrors an image at its bottom and right edges until both sides are at least `side`."""
    bottom, right = (max(0, side - length) for length in image.shape[:2])
    return cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REFLECT_101)


def reflect_pair(gt: np.ndarray, lq: np.ndarray, side: int, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """As `reflect_to` for a pair. The edge itself is repeated, or the two would be shifted against one another."""

    def reflect(image: np.ndarray, side: int) -> np.ndarray:
        bottom, right = (max(0, side - length) for length in image.shape[:2])
        return cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REFLECT)

    return reflect(gt, side), reflect(lq, side // scale)


def draw_augment(rng: np.random.Generator, kind: str) -> tuple[bool, int]:
    """(flip up-down, number of quarter turns): one of the 8 for `flips_and_turns`; `flip` is left-right only."""
    if kind == "flips_and_turns":
        return bool(rng.integers(2)), int(rng.integers(4))
    if kind == "flip":
        return (True, 2) if rng.integers(2) else (False, 0)
    return False, 0


def augment(image: np.ndarray, flip: bool, turns: int) -> np.ndarray:
    """Turns (H, W, C) counter-clockwise by quarter turns, then flips it upside down."""
    turned = np.rot90(image, turns)
    return turned[::-1] if flip else turned


@dataclass(frozen=True)
class ValidationItem:
    """One validation image: (1, 3, …) tensors on the CPU, with the plan that made it."""

    name: str
    batch: Batch

    @property
    def gt(self) -> Tensor:
        """The plain ground truth (1, 3, H, W)."""
        return self.batch.targets["plain"]


class ValidationSet:
    """Whole images with frozen degradations: they depend on (validation seed, set name, index) alone."""

    def __init__(
        self,
        name: str,
        entry: SourceEntry,
        default: Degradation,
        *,
        seed: int,
        scale: int,
        section: str = "data.validation",
    ) -> None:
        self.name, self.entry, self.seed, self.scale = name, entry, seed, scale
        self.degradation = degradation_of(entry, default, scale, f"{section}.{name}")

    def __len__(self) -> int:
        return len(self.entry.source) * self.entry.repeats

    def item_name(self, number: int) -> str:
        """The name of an item: its image's, with a number where one image is degraded several times."""
        index, again = number % len(self.entry.source), number // len(self.entry.source)
        path = Path(self.entry.source.name(index))
        return str(path.with_stem(f"{path.stem}_{again}") if again else path)

    def __getitem__(self, number: int) -> ValidationItem:
        """Raises UnreadableImageError for a file that cannot be read, since a validation set must be whole, and
        OptionError for an image that the degradation refuses."""
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
            raise OptionError(f"{self.name}, {path}: {error}") from error
        samples = Samples(_to_tensor(gt)[None], [plan], [path], [0], None if lq is None else _to_tensor(lq)[None])
        return ValidationItem(self.item_name(number), degrade(samples, [self.degradation], torch.device("cpu")))


def _window(
    gt: np.ndarray, lq: np.ndarray | None, scale: int, crop: int | None, multiple: int = 1
) -> tuple[np.ndarray, np.ndarray | None]:
    """Cuts bottom and right to multiples of the scale (and of `multiple`); with `crop`, keeps a central part on the
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
