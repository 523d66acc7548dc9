"""Degradations in somebody else's training loop: a data set of pairs, or a batch at a time on its device."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from degradations import Degradation, Degraded, Plan, Size, paired_crop
from utils.options.fields import OptionError
from utils.seeding import sample_stream, step_stream

STREAM = "anywhere"


class Images(Protocol):
    """Whatever has a length and gives images by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...  # noqa: ANN401


class DegradedDataset(Dataset[dict[str, Tensor]]):
    """Pairs made of good images: {"lq": (C, h, w), "gt": (C, h·scale, w·scale)} float32 in [0, 1], and "usm", "kernel",
    "sigma" where the degradation has them.

    A pair depends on (seed, epoch, index) alone: not on workers, their number or how they are started.

    Args:
        images: gives each image as an array (H, W, 3) of uint8, or a tensor (3, H, W) in [0, 1]; of a tuple the first.
        degradation: what `load_degradation` returns.
        crop_size: side of the random square of the image that is degraded.
        gt_size: side of what is left of it after a final paired crop; default all.
        seed: of everything random.

    Raises:
        OptionError: the degradation needs low-quality images, or draws a scale for each batch, or a crop does not fit.
    """

    def __init__(
        self, images: Images, degradation: Degradation, crop_size: int, gt_size: int | None = None, seed: int = 0
    ) -> None:
        if degradation.starts_from_lq:
            raise OptionError("this degradation starts from low-quality images, so it makes no pairs of good ones")
        if degradation.scales:
            raise OptionError("this degradation draws a scale for each batch; use degrade_batch")
        for name, size in (("crop_size", crop_size), ("gt_size", gt_size or crop_size)):
            if size % degradation.scale or size > crop_size:
                rule = f"a multiple of the scale {degradation.scale}, of {crop_size} at most"
                raise OptionError(f"{name}: found {size}, expected {rule}")
        self.images, self.degradation, self.seed = images, degradation, seed
        self.crop_size, self.gt_size = crop_size, gt_size
        # Shared memory, so that workers which outlive an epoch see the next one.
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Let everything random be drawn anew, for all workers."""
        self._epoch[0] = epoch

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        image = _tensor(self.images[index])
        rng = sample_stream(self.seed, STREAM, index, int(self._epoch[0]))
        crop = self.crop_size
        if min(image.shape[-2:]) < crop:
            raise OptionError(f"image {index} is {tuple(image.shape[-2:])}, smaller than the crop_size of {crop}")
        top, left = (int(rng.integers(side - crop + 1)) for side in image.shape[-2:])
        gt = image[None, :, top : top + crop, left : left + crop].contiguous()
        plan = self.degradation.sample(rng, (crop, crop), shared=self.degradation.draw_shared(rng))
        plan = plan.with_crop(rng, self.gt_size)
        made = paired_crop(self.degradation.apply(gt, [plan]), [plan])
        tensors = {"lq": made.lq, "gt": made.targets["plain"], "usm": made.targets.get("usm")}
        tensors |= {"kernel": made.kernel, "sigma": made.sigma}
        return {name: value[0] for name, value in tensors.items() if value is not None}


def degrade_batch(
    gt: Tensor, degradation: Degradation, *, step: int, seed: int = 0, first: int = 0, gt_size: int | None = None
) -> Degraded:
    """Degrade a batch of good images on the device where they are.

    Args:
        gt: (B, C, H, W) in [0, 1], both sides multiples of the scale.
        degradation: what `load_degradation` returns.
        step: the optimizer step; each has draws of its own, and ranges that follow a schedule follow it.
        seed: of everything random.
        first: the number of the first image within the step: rank times B where several processes share a batch.
        gt_size: side of a final paired crop; default none.

    Returns:
        `lq` (B, C, h, w), `targets` by name (`plain`, `usm`), and `kernel`, `sigma` where the degradation has them.
    """
    shared = degradation.draw_shared(step_stream(seed, STREAM, step))
    size: Size = (gt.shape[-2], gt.shape[-1])
    plans: Sequence[Plan] = [_plan(degradation, seed, step, first + i, size, shared, gt_size) for i in range(len(gt))]
    with torch.no_grad():
        return paired_crop(degradation.apply(gt, plans), plans)


def _plan(
    degradation: Degradation, seed: int, step: int, number: int, size: Size, shared: dict[str, Any], gt_size: int | None
) -> Plan:
    rng = sample_stream(seed, STREAM, number, step)
    return degradation.sample(rng, size, step, shared).with_crop(rng, gt_size)


def _tensor(image: Any) -> Tensor:  # noqa: ANN401
    """Return (C, H, W) float32 in [0, 1] of an array (H, W, C) of uint8 or a tensor; of a tuple the first."""
    image = image[0] if isinstance(image, (tuple, list)) else image
    if isinstance(image, Tensor):
        return image.float() / 255 if image.dtype == torch.uint8 else image.float()
    array = np.asarray(image)
    if array.ndim != 3 or array.dtype != np.uint8:
        found = f"an array of {array.dtype} with shape {array.shape}"
        raise OptionError(f"found {found}, expected uint8 (H, W, 3), or a tensor (3, H, W) in [0, 1]")
    return torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1))).float() / 255
