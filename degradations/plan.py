"""Draw first, then apply: what a sample's degradation is, before any pixel is touched.

All randomness of a sample is drawn into a `Plan` of plain values. Applying plans is a pure function of images and
plans, so a plan can be printed, compared, stored as JSON and replayed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from degradations.operations.ragged import Ragged, Size
from utils.images.colour import gray
from utils.options.fields import OptionError, Prob
from utils.seeding import generator

Drawn = dict[str, Any]
"""What one step drew: JSON values only. A noise seed is always called `seed`."""
Shared = Mapping[str, Any]
"""What was drawn once per optimizer step, equal for the whole batch."""


@dataclass(frozen=True)
class Plan:
    """Everything random about the degradation of one sample.

    >>> plan = Plan((64, 96), 4, (("blur", {"size": 7, "sigma": 1.2}), ("noise", {"level": 5, "seed": 3})))
    >>> print(plan)
    64x96 /4
      blur: size=7, sigma=1.2
      noise: level=5, seed=3
    >>> Plan.from_json(plan.to_json()) == plan
    True

    Attributes:
        size: (height, width) of the ground truth that the plan was drawn for.
        scale: how many times smaller the low-quality image is.
        steps: (step name, what it drew) in the order of application.
        crop: (top, left, size) of the final paired crop in low-quality pixels, or None for the whole image.
    """

    size: Size
    scale: int
    steps: tuple[tuple[str, Drawn], ...] = ()
    crop: tuple[int, int, int] | None = None

    def views(self, count: int) -> list[Plan]:
        """Return `count` plans with the same drawn values but their own noise seeds; the first is this plan."""
        return [self._reseeded(i) if i else self for i in range(count)]

    def _reseeded(self, view: int) -> Plan:
        def fresh(drawn: Drawn) -> Drawn:
            if "seed" not in drawn:
                return drawn
            return {**drawn, "seed": int(generator(drawn["seed"], "view", view).integers(2**62))}

        return replace(self, steps=tuple((name, fresh(drawn)) for name, drawn in self.steps))

    def with_crop(self, rng: np.random.Generator, gt_size: int | None) -> Plan:
        """Return the plan with a final paired crop of `gt_size` ground-truth pixels at a random place.

        Raises ValueError for a ground truth that is smaller than the crop.
        """
        if gt_size is None:
            return self
        size = gt_size // self.scale
        room = [side // self.scale - size for side in self.size]
        if min(room) < 0:
            raise ValueError(f"a ground truth of {self.size} is smaller than the final crop of {gt_size}")
        top, left = (int(rng.integers(r + 1)) for r in room)
        return replace(self, crop=(top, left, size))

    def to_json(self) -> str:
        """Return one line of JSON that `from_json` reads back to an equal plan."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan written by `to_json`. Raises ValueError for anything else."""
        try:
            raw = json.loads(text)
            steps = tuple((str(name), dict(drawn)) for name, drawn in raw["steps"])
            crop = None if raw["crop"] is None else tuple(int(v) for v in raw["crop"])
            height, width = raw["size"]
            return cls((int(height), int(width)), int(raw["scale"]), steps, crop)  # type: ignore[arg-type]
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"this is no plan: {error}") from error

    def __str__(self) -> str:
        lines = [f"{self.size[0]}x{self.size[1]} /{self.scale}"]
        lines += [f"  {name}: {', '.join(f'{k}={_short(v)}' for k, v in drawn.items())}" for name, drawn in self.steps]
        return "\n".join(lines)


def _short(value: Any) -> str:  # noqa: ANN401
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return "[" + " ".join(_short(v) for v in value) + "]"
    return str(value)


@dataclass
class State:
    """What a step may know while it draws, kept up to date as the steps follow one another.

    Attributes:
        size: (height, width) of the image at this point.
        gt_size: (height, width) of the ground truth.
        scale: the pipeline's scale.
        factor: the scale still to go through by downsampling; BSRGAN's halving turns 4 into 2.
        iteration: the optimizer step that the sample belongs to, for ranges that follow a schedule.
        shared: draws made once per optimizer step, equal for the whole batch.
        decisions: the stream for what the published code decides once per batch (whether and how to resize, which
            noise): the batch's with `draws: batch`; otherwise None, and a step takes its own.
    """

    size: Size
    gt_size: Size
    scale: int
    factor: int
    iteration: int = 0
    shared: Shared = field(default_factory=dict)
    decisions: np.random.Generator | None = None

    @property
    def lq_size(self) -> Size:
        """The size at which every pipeline must end."""
        return self.gt_size[0] // self.scale, self.gt_size[1] // self.scale


class MissingPoolError(OptionError):
    """A pool of kernels or noise is not there, or does not serve.

    The `prepare:` section of an option file may be about to make it anew, so who builds steps may go on without.
    """


def require_same(drawn: str, held: str, what: str, path: str) -> None:
    """Raise ValueError unless a plan was drawn from the pool (of `what`, by content hash) that is held."""
    if drawn != held:
        raise ValueError(
            f"the plan was drawn from the {what} {drawn[:8]}, but {path} holds {held[:8]}; give the files that it was "
            "drawn from"
        )


class Step:
    """One operation of a degradation: it draws, then it applies what was drawn.

    `sample` draws everything random into plain values and moves `state.size` on when it changes the size; None
    means that it does nothing this time. `apply` is a pure function of images and drawn values. `kernel` and `sigma`
    tell what a non-blind network is given.
    """

    def sample(self, rng: np.random.Generator, state: State) -> Drawn | None:
        raise NotImplementedError(f"{type(self).__name__} draws nothing")

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        raise NotImplementedError(f"{type(self).__name__} does nothing")

    def ranged(self, drawn: Drawn) -> dict[str, list[float]]:
        """Return by option what was drawn of each range: of `x_range` what a plan calls `x` or `xs`.

        There may be names that are no options. Sizes of kernels are left out, which show little.
        """
        numbers = {key: np.ravel(value) for key, value in drawn.items() if key not in ("seed", "size")}
        return {f"{key.removesuffix('s')}_range": v.tolist() for key, v in numbers.items() if v.dtype.kind in "if"}

    def kernel(self, drawn: Drawn) -> np.ndarray | None:
        """Return the drawn kernel (k, k), sum 1, of a step that is a convolution with one; None for any other step."""
        return None

    def sigma(self, drawn: Drawn) -> float | None:
        """Return the drawn standard deviation, in [0, 1] units, of a step that adds white noise; None for any other."""
        return None


@dataclass(frozen=True)
class StepEntry:
    """A step as it stands in an option file.

    Args:
        prob: the probability that it happens at all.
    """

    step: Step
    prob: Prob = 1.0


@dataclass(frozen=True)
class DegradationSettings:
    """What every degradation has, whatever it does.

    Args:
        where: it runs: on the training device, batched, or sample by sample in the loader's workers.
    """

    where: Literal["device", "worker"] = "device"


@dataclass
class Degraded:
    """The result of applying plans: low-quality images and what they are to be compared with.

    `lq` (B, C, h, w); `targets` by name (`plain`, `usm`), each (B, C, h·scale, w·scale); the blur kernel
    (B, k, k) and noise level (B,) in [0, 1] units where the degradation has them.
    """

    lq: Tensor
    targets: dict[str, Tensor]
    kernel: Tensor | None = None
    sigma: Tensor | None = None


@dataclass
class Batch:
    """What goes from loader to loss: low-quality images, what they are compared with, and where they came from.

    Attributes:
        lq: (B, 3, h, w), of gray networks (B, 1, h, w); before the batch is degraded, those that came with paired
            data, or none (0, 3, 0, 0).
        targets: ground truths (B, 3, h·scale, w·scale) by name, as in `Degraded`.
        kernel, sigma: (B, k, k) and (B,), where the degradation tells them.
        plans, paths: of each image.
        views: copies of each sample, which follow one another on the batch axis; 1 except for contrastive learning.
        gt: what is still to be degraded (B, 3, H, W), uint8, or float32 in [0, 1] from deeper images; then None.
        sources: the number of each image's source, which names its degradation.
        mishaps: (image, reason) of what could not be used, so that another image was drawn.
    """

    lq: Tensor
    targets: dict[str, Tensor]
    kernel: Tensor | None = None
    sigma: Tensor | None = None
    plans: list[Plan] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    views: int = 1
    gt: Tensor | None = None
    sources: list[int] = field(default_factory=list)
    mishaps: list[tuple[str, str]] = field(default_factory=list)

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with every tensor changed."""
        optional = {name: getattr(self, name) for name in ("kernel", "sigma", "gt")}
        changed = {name: change(tensor) for name, tensor in optional.items() if tensor is not None}
        targets = {name: change(target) for name, target in self.targets.items()}
        return replace(self, lq=change(self.lq), targets=targets, **changed)

    def gray(self) -> Batch:
        """Return the degraded batch with images of one channel, full-range luma."""
        return replace(self, lq=gray(self.lq), targets={name: gray(target) for name, target in self.targets.items()})

    def to(self, device: torch.device) -> Batch:
        """Copy the batch to a device, without waiting where its memory is pinned."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Pin the batch's memory; the loader calls it."""
        return self.map(Tensor.pin_memory)

    def view(self, number: int) -> Batch:
        """Return one view of each sample."""
        of_view = slice(number, None, self.views)
        kernel, sigma = (None if part is None else part[of_view] for part in (self.kernel, self.sigma))
        targets = {name: target[of_view] for name, target in self.targets.items()}
        return Batch(self.lq[of_view], targets, kernel, sigma, self.plans[of_view], self.paths[of_view])

    @property
    def scale(self) -> int | None:
        """The scale of this batch, equal for all its samples; None for images of which no plan tells."""
        return self.plans[0].scale if self.plans else None

    def conditions(self, names: Sequence[str]) -> dict[str, Any]:
        """Return the further inputs that a network asks for by name, as far as known: `kernel`, `sigma`, `scale`."""
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class Degradation:
    """Make low-quality images: draw plans, apply plans.

    Attributes:
        scale: how many times smaller the low-quality image is.
        scales: those that training draws from, one per optimizer step, where it is not the one.
        targets: names of the ground truths that `apply` gives.
        conditions: names of what it knows besides the image: `kernel`, `sigma`.
        starts_from_lq: whether `apply` works on given low-quality images, as paired data have them.
    """

    scale: int
    scales: tuple[int, ...] = ()
    starts_from_lq: bool = False
    targets: tuple[str, ...] = ("plain",)
    conditions: tuple[str, ...] = ()

    def sample(self, rng: np.random.Generator, size: Size, iteration: int = 0, shared: Shared | None = None) -> Plan:
        """Draw the plan of one sample.

        Args:
            rng: the sample's own stream.
            size: (height, width) of the ground truth, both multiples of the scale.
            iteration: the optimizer step, for ranges that follow a schedule.
            shared: what `draw_shared` drew for this step.
        """
        raise NotImplementedError(f"{type(self).__name__} draws nothing")

    def draw_shared(self, rng: np.random.Generator) -> dict[str, Any]:
        """Draw what is one for the whole batch of an optimizer step, such as `scale`; `sample` gets it as `shared`."""
        return {"scale": int(rng.choice(self.scales))} if self.scales else {}

    def apply(self, gt: Tensor, plans: Sequence[Plan], lq: Tensor | None = None) -> Degraded:
        """Apply one plan per image.

        Args:
            gt: ground truths (B, C, H, W) in [0, 1]; they are not changed.
            plans: one for each image.
            lq: given low-quality images, where the degradation starts from them.
        """
        raise NotImplementedError(f"{type(self).__name__} does nothing")


def run_steps(gt: Tensor, plans: Sequence[Plan], steps: Mapping[str, Step]) -> Ragged:
    """Apply the steps of one plan per image to images (B, C, H, W).

    On the CPU the images go through one by one, so that no result depends, even in the last bit, on which other
    images share the batch; on a device those that wait for the same step go through it together.

    Raises ValueError for a plan with a step that is not among `steps`.
    """
    if gt.device.type != "cpu":
        return run_batched(gt, plans, steps)
    made = []
    for image, plan in zip(gt, plans, strict=True):
        images = Ragged.of(image[None])
        for name, drawn in plan.steps:
            images = _step(steps, name).apply(images, [drawn])
        made += images.images()
    return Ragged.pack(made)


def run_batched(gt: Tensor, plans: Sequence[Plan], steps: Mapping[str, Step]) -> Ragged:
    """Do as `run_steps` for all images together on any device."""
    images, queues = Ragged.of(gt), [list(plan.steps) for plan in plans]
    while any(queues):
        name, indices = _next_group(queues)
        drawn = [queues[i].pop(0)[1] for i in indices]
        images = images.put(indices, _step(steps, name).apply(images.select(indices), drawn))
    return images


def _step(steps: Mapping[str, Step], name: str) -> Step:
    if name not in steps:
        raise ValueError(f"the plan names a step {name!r} that this degradation has not; it has {', '.join(steps)}")
    return steps[name]


def _next_group(queues: Sequence[list[tuple[str, Drawn]]]) -> tuple[str, list[int]]:
    """Choose which step comes next, and for which samples: those at whose head it stands.

    Samples need not keep pace. The step whose samples have most before them goes first, which makes groups larger and
    a third fewer than position after position.
    """
    groups: dict[str, list[int]] = {}
    for i, queue in enumerate(queues):
        if queue:
            groups.setdefault(queue[0][0], []).append(i)
    return max(groups.items(), key=lambda group: sum(len(queues[i]) for i in group[1]))


def paired_crop(degraded: Degraded, plans: Sequence[Plan]) -> Degraded:
    """Cut the final crops of the plans out of low-quality images and, `scale` times larger, out of targets."""
    if any(plan.crop is None for plan in plans):
        return degraded

    def cut(images: Tensor, factor: int) -> Tensor:
        windows = []
        for image, plan in zip(images, plans, strict=True):
            assert plan.crop is not None
            top, left, size = (v * factor for v in plan.crop)
            windows.append(image[:, top : top + size, left : left + size])
        return torch.stack(windows)

    scale = plans[0].scale
    targets = {name: cut(image, scale) for name, image in degraded.targets.items()}
    return Degraded(cut(degraded.lq, 1), targets, degraded.kernel, degraded.sigma)
