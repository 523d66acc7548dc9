"""From images on disk to batches: reading, cropping, drawing plans, degrading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

from data.cache import ImageCache
from data.sampler import index_of
from data.source import Augment, Source, SourceEntry, UnreadableImageError, fingerprint
from degradations import Batch, Degradation, Degraded, Plan, paired_crop
from utils.options.components import Spec
from utils.options.fields import Count, OptionError, PositiveInt
from utils.seeding import sample_stream, step_stream
from utils.storage.files import located

MAX_ATTEMPTS = 50
"""Draws for one sample before the data set counts as unusable."""


@dataclass(frozen=True)
class DataOptions:
    """The `data` section of an option file.

    Args:
        train: the sources of training images, by name.
        crop_size: the sides of the ground truth given to the degradation, in pixels.
        batch_size: samples per optimizer step over all processes.
        gt_size: the sides of what is left of it after the final paired crop; left out, all.
        workers: processes of each rank that read and crop.
        augment: turn and mirror images: one of all eight ways, left-right only, `turns` (upside down and transposed,
            each half of the time: four ways), or none.
        small_images: what happens to an image smaller than the crop: mirrored up to it, or left out.
        max_unreadable: more files than this that cannot be read stop the run.
        validation: the sets that are measured on, by name.
        validation_seed: of what validation images are degraded by, so that runs with different seeds compare.
        pair_pool: so many pairs wait in a pool, in which batches mix whose degradation was drawn together
            (Real-ESRGAN's queue); 0 for none.
        cache: a folder that keeps each training image decoded from its first reading on, for all runs; crops are then
            read without decoding, and are the same. The log says at the start how much that takes: 3 bytes a pixel.
    """

    train: Mapping[str, Spec[SourceEntry]]
    crop_size: PositiveInt
    batch_size: PositiveInt
    gt_size: PositiveInt | None = None
    workers: Count = 2
    augment: Augment = "flips_and_turns"
    small_images: Literal["reflect", "skip"] = "reflect"
    max_unreadable: Count = 100
    validation: Mapping[str, Spec[SourceEntry]] = field(default_factory=dict)
    validation_seed: Count = 0
    pair_pool: Count = 0
    cache: str | None = None


@dataclass(frozen=True)
class Sample:
    """One sample before it is degraded; lists are by view.

    Attributes:
        gts: ground truths (3, H, W), uint8, or float32 in [0, 1] from deeper images.
        lqs: their low-quality partners, where they are given.
        source: the number of its source, which names its degradation.
        mishaps: (image, reason) of what could not be used in its place.
    """

    gts: list[Tensor]
    lqs: list[Tensor | None]
    plans: list[Plan]
    paths: list[str]
    source: int = 0
    mishaps: list[tuple[str, str]] = field(default_factory=list)


class Unusable(Exception):  # noqa: N818 - another image is drawn instead
    """An image cannot be used. Its arguments are the image's name and the reason."""


def degradation_of(entry: SourceEntry, default: Degradation, scale: int, where: str) -> Degradation:
    """Return a source's own degradation, or the default.

    Raises OptionError where one has low-quality images to give and the other does not start from them, or the other
    way round.
    """
    chosen = default if entry.degradation is None else entry.degradation.build(scale=scale)
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
    def build(
        cls, specs: Mapping[str, Spec[SourceEntry]], default: Degradation, scale: int, cache: str | None = None
    ) -> Mix:
        """Build all sources. Raises OptionError for a source that does not suit its degradation.

        Args:
            cache: the folder that keeps decoded images.
        """
        entries, degradations = [], []
        kept = None if cache is None else ImageCache(located(cache))
        for name, spec in specs.items():
            entry = spec.build(scale=scale)
            degradations.append(degradation_of(entry, default, scale, f"data.train.{name}"))
            entry.source.cache = kept if entry.source.keeps else None
            entries.append(entry)
        return cls(tuple(entries), tuple(specs), tuple(degradations))

    def fingerprints(self) -> dict[str, str]:
        """Return what tells the images of each source from others, by its name."""
        return {name: fingerprint(entry.source) for name, entry in zip(self.names, self.entries, strict=True)}

    @property
    def fetches_ahead(self) -> bool:
        """Whether it helps a source to be told of samples before they are asked for."""
        return any(type(entry.source).ahead is not Source.ahead for entry in self.entries)

    @property
    def counts(self) -> list[int]:
        """Images per source."""
        return [len(entry.source) for entry in self.entries]


class TrainingSet(Dataset[Batch]):
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

    def __getitems__(self, numbers: Sequence[int]) -> Batch:
        if self.mix.fetches_ahead:
            self._begin([*numbers, *getattr(numbers, "upcoming", ())])
        batch = collate([self.sample(number) for number in numbers])
        return degrade(batch, self.mix.degradations, torch.device("cpu")) if self.in_worker else batch

    def __getitem__(self, number: int) -> Batch:
        return self.__getitems__([number])

    def __len__(self) -> int:
        return 2**62  # endless

    def _begin(self, numbers: Sequence[int]) -> None:
        """Begin to fetch the images of samples."""
        for number in numbers:
            source, indices = self._choose(number, 0, sample_stream(self.seed, self.stage, number, 0))
            self.mix.entries[source].source.ahead(list(dict.fromkeys(indices)))

    def sample(self, number: int) -> Sample:
        """Return the sample of a number. Raises OptionError when too many images in a row cannot be used."""
        mishaps: list[tuple[str, str]] = []
        for attempt in range(MAX_ATTEMPTS):
            try:
                return replace(self._attempt(number, attempt), mishaps=mishaps)
            except Unusable as mishap:
                mishaps.append(mishap.args)
        raise OptionError(
            f"data.train: {MAX_ATTEMPTS} images in a row could not be used, the last one: {mishaps[-1][1]}"
        )

    def _attempt(self, number: int, attempt: int) -> Sample:
        """Choose the images, read them, cut them out and draw their plans. Raises Unusable for an image."""
        rng = sample_stream(self.seed, self.stage, number, attempt)
        source, indices = self._choose(number, attempt, rng)
        images = {index: self._read(source, index) for index in dict.fromkeys(indices)}
        scale = self.mix.degradations[source].scale
        kind = self.mix.entries[source].augment or self.options.augment
        crops = [self._crop(*images[index], scale, rng) for index in indices]
        turns = {index: draw_augment(rng, kind) for index in images}  # of an image, not of a crop, as DASR released it
        views = [
            (augment(gt, *turns[index]), None if lq is None else augment(lq, *turns[index]))
            for index, (gt, lq) in zip(indices, crops, strict=True)
        ]
        return Sample(
            gts=[to_tensor(gt) for gt, _ in views],
            lqs=[None if lq is None else to_tensor(lq) for _, lq in views],
            plans=self._draw(source, number, rng),
            paths=[self.mix.entries[source].source.name(index) for index in indices],
            source=source,
        )

    def _choose(self, number: int, attempt: int, rng: np.random.Generator) -> tuple[int, list[int]]:
        """Return the number of a source, and the index of an image there for each view."""
        counts, entries = self.mix.counts, self.mix.entries
        weights, localities = [entry.weight for entry in entries], [entry.source.locality for entry in entries]
        source, index = index_of(number, self.seed, self.stage, counts, weights, localities)
        count = counts[source]
        if attempt > 0:  # a replacement comes from the same source, so that unreadable files do not change the shares
            index = int(rng.integers(count))
        others = [index] * (self.views - 1)
        if self.positive == "other_image_same_degradation":
            others = [(index + int(rng.integers(1, max(count, 2)))) % count for _ in others]
        return source, [index, *others]

    def _read(self, source: int, index: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return an image, at least as large as the crop, and its low-quality partner where there is one."""
        images, degradation, crop = (
            self.mix.entries[source].source,
            self.mix.degradations[source],
            self.options.crop_size,
        )
        try:
            gt = images.read(index)
            lq = images.read_lq(index) if degradation.starts_from_lq else None
        except UnreadableImageError as error:
            raise Unusable(images.name(index), str(error)) from error
        if min(gt.shape[:2]) >= crop:
            return gt, lq
        if self.options.small_images == "skip":
            name, size = images.name(index), f"{gt.shape[1]}x{gt.shape[0]}"
            raise Unusable(name, f"{name}: {size} is smaller than the crop of {crop}")
        return (reflect_to(gt, crop), None) if lq is None else reflect_pair(gt, lq, crop, degradation.scale)

    def _crop(
        self, gt: np.ndarray, lq: np.ndarray | None, scale: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Cut out a random square, of a pair on the low-quality grid."""
        crop, step = self.options.crop_size, 1 if lq is None else scale
        top, left = (step * int(rng.integers((side - crop) // step + 1)) for side in gt.shape[:2])
        gt = gt[top : top + crop, left : left + crop]
        if lq is not None:
            lq = lq[top // scale : (top + crop) // scale, left // scale : (left + crop) // scale]
        return gt, lq

    def _draw(self, source: int, number: int, rng: np.random.Generator) -> list[Plan]:
        """Draw a plan for each view, with its final crop."""
        degradation, iteration = self.mix.degradations[source], number // self.batch_size
        shared = {**degradation.draw_shared(step_stream(self.seed, self.stage, iteration)), "training_crop": True}
        size = (self.options.crop_size, self.options.crop_size)
        plans = degradation.sample(rng, size, iteration, shared).views(self.views)
        if self.positive == "same_image_other_degradation":
            plans[1:] = [degradation.sample(rng, size, iteration, shared) for _ in plans[1:]]
        return [plan.with_crop(rng, self.options.gt_size) for plan in plans]


def to_tensor(image: np.ndarray) -> Tensor:
    """Make (3, H, W): uint8 stays, a quarter of the bytes from worker to device; uint16 becomes float32."""
    array = np.ascontiguousarray(image.transpose(2, 0, 1))
    return torch.from_numpy(array) if array.dtype == np.uint8 else torch.from_numpy(array.astype(np.float32) / 65535)


def collate(samples: Sequence[Sample]) -> Batch:
    """Return samples as a batch that is still to be degraded; views of one sample follow one another."""
    gts = [gt for sample in samples for gt in sample.gts]
    lqs = [lq for sample in samples for lq in sample.lqs]
    given = next((lq for lq in lqs if lq is not None), None)
    return Batch(
        lq=torch.empty(0, 3, 0, 0) if given is None else _stack([_or_zeros(lq, given) for lq in lqs]),
        targets={},
        plans=[plan for sample in samples for plan in sample.plans],
        paths=[path for sample in samples for path in sample.paths],
        views=len(samples[0].gts),
        gt=_stack(gts),
        sources=[sample.source for sample in samples for _ in sample.gts],
        mishaps=[mishap for sample in samples for mishap in sample.mishaps],
    )


def _or_zeros(image: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if image is None else image


def _stack(images: Sequence[Tensor]) -> Tensor:
    if len({image.dtype for image in images}) > 1:
        images = [as_float(image) for image in images]
    return torch.stack(list(images))


def as_float(image: Tensor) -> Tensor:
    """Return float32 in [0, 1] from uint8 or float."""
    return image / 255 if image.dtype == torch.uint8 else image


@torch.no_grad()
def degrade(batch: Batch, degradations: Sequence[Degradation], device: torch.device) -> Batch:
    """Move a batch to a device; apply its plans there and cut the final crops, unless that is done.

    Args:
        degradations: by the number of an image's source.
    """
    batch = batch.to(device)
    if batch.gt is None:
        return batch
    gt, lq = as_float(batch.gt), as_float(batch.lq)
    parts: list[tuple[list[int], Degraded]] = []
    for source in sorted(set(batch.sources)):
        chosen = [i for i, of_image in enumerate(batch.sources) if of_image == source]
        plans, degradation = [batch.plans[i] for i in chosen], degradations[source]
        given = lq[chosen] if degradation.starts_from_lq else None
        degraded = degradation.apply(gt if len(chosen) == len(gt) else gt[chosen], plans, given)
        parts.append((chosen, paired_crop(degraded, plans)))
    made = parts[0][1] if len(parts) == 1 else _joined(parts)
    return replace(batch, lq=made.lq, targets=made.targets, kernel=made.kernel, sigma=made.sigma, gt=None)


def _joined(parts: Sequence[tuple[list[int], Degraded]]) -> Degraded:
    """Return what the degradations made, (positions, images) of each, in the order of positions."""
    order = torch.as_tensor([i for chosen, _ in parts for i in chosen], device=parts[0][1].lq.device).argsort()
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
    """Mirror an image at its bottom and right edges until both sides are at least `side`."""
    bottom, right = (max(0, side - length) for length in image.shape[:2])
    return cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REFLECT_101)


def reflect_pair(gt: np.ndarray, lq: np.ndarray, side: int, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """Do as `reflect_to` for a pair. The edge itself is repeated, or the two would be shifted against one another."""

    def reflect(image: np.ndarray, side: int) -> np.ndarray:
        bottom, right = (max(0, side - length) for length in image.shape[:2])
        return cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REFLECT)

    return reflect(gt, side), reflect(lq, side // scale)


def draw_augment(rng: np.random.Generator, kind: Augment) -> tuple[bool, int]:
    """Return (flip up-down, number of quarter turns), as `augment` takes them: see DataOptions."""
    if kind == "flips_and_turns":
        return bool(rng.integers(2)), int(rng.integers(4))
    if kind == "flip":
        return (True, 2) if rng.integers(2) else (False, 0)
    if kind == "turns":  # neither, upside down, transposed, both: BasicSR's use_rot without use_hflip
        return ((False, 0), (True, 0), (True, 1), (False, 3))[rng.integers(4)]
    return False, 0


def augment(image: np.ndarray, flip: bool, turns: int) -> np.ndarray:
    """Turn (H, W, C) counter-clockwise by quarter turns, then flip it upside down."""
    turned = np.rot90(image, turns)
    return turned[::-1] if flip else turned
