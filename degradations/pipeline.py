"""A degradation as an order rule over named steps. `type: pipeline` takes any steps."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from degradations import DEGRADATIONS, Degradation, Degraded, Plan, Shared, Size, State, StepEntry, run_steps
from degradations.operations.ragged import on_device
from degradations.plan import MissingPoolError
from utils.options.fields import PositiveInt, Prob
from utils.seeding import draw_seed, generator


@dataclass(frozen=True)
class Order:
    """In which order the steps of a pipeline are applied.

    Args:
        rule: `fixed` keeps the order of the file; `shuffle` permutes all steps; `local_shuffle` permutes each of the
            `groups` among its own places; `choice` applies one step alone, all equally likely.
        first: steps that stay at the beginning.
        last: steps that stay at the end.
        in_order: steps that keep their order among themselves, whatever places a shuffle gives them.
        groups: of `local_shuffle`.
        full_prob: how often a local shuffle becomes a full one.
        alternatives: orders of the same names, of which one is drawn, all equally likely.
    """

    rule: Literal["fixed", "shuffle", "local_shuffle", "choice"] = "fixed"
    first: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    in_order: tuple[str, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()
    full_prob: Prob = 0.0
    alternatives: tuple[tuple[str, ...], ...] = ()

    def draw(self, names: Sequence[str], seed: int) -> list[str]:
        """Draw an order of the named steps. Names that this rule mentions but the pipeline lacks do not count."""
        first = [n for n in self.first if n in names]
        last = [n for n in self.last if n in names]
        middle = [n for n in names if n not in (*first, *last)]

        def place(name: str) -> float:
            """Draw a sort key per name, so that removing one step leaves the order of the others as it was."""
            return float(generator(seed, "order", name).random())

        if self.rule == "shuffle" or (
            self.rule == "local_shuffle" and generator(seed, "order").random() < self.full_prob
        ):
            middle.sort(key=place)
        elif self.rule == "local_shuffle":
            for group in self.groups:
                _reorder(middle, sorted((n for n in middle if n in group), key=place))
        elif self.rule == "choice" and middle:
            middle = [min(middle, key=place)]
        _reorder(middle, [n for n in self.in_order if n in middle])
        if self.alternatives:
            chosen = self.alternatives[int(generator(seed, "order", "alternatives").integers(len(self.alternatives)))]
            _reorder(middle, [n for n in chosen if n in middle])
        return [*first, *middle, *last]


@dataclass(frozen=True)
class Group:
    """Steps that happen together or not at all.

    Args:
        steps: their names.
        prob: how often they happen; one draw decides, and each step's own `prob` counts besides.
    """

    steps: tuple[str, ...]
    prob: Prob


def _reorder(names: list[str], wanted: Sequence[str]) -> None:
    """Put the wanted names, in their order, into the places that they hold together."""
    places = [i for i, name in enumerate(names) if name in wanted]
    for place, name in zip(places, wanted, strict=True):
        names[place] = name


@DEGRADATIONS.register("pipeline")
class Pipeline(Degradation):
    """Apply named steps in an order drawn anew for each sample.

    Each step draws from a stream of its own, so switching one off changes nothing else that is drawn. The last size
    must be the ground truth's divided by `scale`.

    Args:
        steps: by name, in the order of the file.
        scale: how many times smaller the low-quality image is; with `scales`, that of validation.
        order: the rule by which their order is drawn.
        gt_steps: those that come first, whatever the order; what they give is the ground truth for all that follows:
            the target `plain` and the start of the degradation. They keep the size.
        conditions: what a non-blind network is told: the `kernel` of the one blur and the `sigma` of the one noise of
            each sample.
        scales: those of which training draws one per optimizer step.
        draws: `batch` draws once per batch what the published code decides so: order, whether a step happens,
            resizes, the kind of noise.
        groups: steps that happen together or not at all, by the group's name. A step may be in several.

    >>> steps = {"blur": {"type": "gaussian_blur"}, "fit": {"type": "resize_to_lq"}, "jpeg": {"type": "jpeg"}}
    >>> pipeline = DEGRADATIONS.build({"type": "pipeline", "steps": steps, "order": {"rule": "shuffle"}}, scale=2)
    >>> plan = pipeline.sample(np.random.default_rng(0), (64, 96))
    >>> pipeline.apply(torch.rand(1, 3, 64, 96), [plan]).lq.shape
    torch.Size([1, 3, 32, 48])
    """

    def __init__(
        self,
        steps: Mapping[str, StepEntry],
        scale: int,
        order: Order = Order(),  # noqa: B008 - frozen
        gt_steps: tuple[str, ...] = (),
        conditions: tuple[Literal["kernel", "sigma"], ...] = (),
        scales: tuple[PositiveInt, ...] = (),
        draws: Literal["sample", "batch"] = "sample",
        groups: Mapping[str, Group] = {},  # noqa: B006 - never written to
    ) -> None:
        for name, group in groups.items():
            if unknown := [step for step in group.steps if step not in steps]:
                raise ValueError(f"groups.{name}.steps: found {unknown}, expected some of {', '.join(steps)}")
        self.groups = dict(groups)
        self.steps, self.scale, self.gt_steps = dict(steps), scale, gt_steps
        self.conditions, self.scales, self.draws = conditions, scales, draws
        self.order = replace(order, first=(*gt_steps, *(name for name in order.first if name not in gt_steps)))
        self._by_name = {name: entry.step for name, entry in steps.items()}
        with suppress(MissingPoolError):  # it may still have to be made
            for i, factor in enumerate(8 * (scale, *scales)):
                plan = self.sample(np.random.default_rng(i), (480 * factor, 400 * factor), shared={"scale": factor})
                self._told([plan])

    def draw_shared(self, rng: np.random.Generator) -> dict[str, Any]:
        return {**super().draw_shared(rng), **({"seed": draw_seed(rng)} if self.draws == "batch" else {})}

    def sample(self, rng: np.random.Generator, size: Size, iteration: int = 0, shared: Shared | None = None) -> Plan:
        shared = shared or {}
        scale = shared.get("scale", self.scale)
        if size[0] % scale or size[1] % scale:
            raise ValueError(f"a ground truth of {size[0]}x{size[1]} is not a multiple of the scale {scale}")
        seed = draw_seed(rng)
        state = State(size, size, scale, scale, iteration, shared)
        drawn, left_out = [], self._left_out(shared.get("seed", seed))
        for name in self.order.draw(list(self.steps), shared.get("seed", seed)):
            if name in left_out:
                continue
            own = generator(seed, "step", name)
            state.decisions = generator(shared["seed"], "step", name) if "seed" in shared else None
            if (state.decisions or own).random() < self.steps[name].prob and (
                values := self.steps[name].step.sample(own, state)
            ) is not None:
                drawn.append((name, values))
            if name in self.gt_steps and state.size != size:
                raise ValueError(f"{name}: a step of the ground truth must not change its size")
        if state.size != state.lq_size:
            raise ValueError(
                f"the steps end at {state.size[0]}x{state.size[1]} for a ground truth of {size[0]}x{size[1]} at scale "
                f"{scale}, expected {state.lq_size[0]}x{state.lq_size[1]}; add a step such as resize_to_lq"
            )
        return Plan(size, scale, tuple(drawn))

    def _left_out(self, seed: int) -> set[str]:
        """Return the steps of the groups that do not happen."""
        missed = (g for name, g in self.groups.items() if generator(seed, "group", name).random() >= g.prob)
        return {step for group in missed for step in group.steps}

    def apply(self, gt: Tensor, plans: Sequence[Plan], lq: Tensor | None = None) -> Degraded:
        told = self._told(plans, gt.device)
        cuts = [sum(name in self.gt_steps for name, _ in plan.steps) for plan in plans]
        if any(cuts):
            heads = [replace(plan, steps=plan.steps[:cut]) for plan, cut in zip(plans, cuts, strict=True)]
            plans = [replace(plan, steps=plan.steps[cut:]) for plan, cut in zip(plans, cuts, strict=True)]
            gt = run_steps(gt, heads, self._by_name).data
        return Degraded(run_steps(gt, plans, self._by_name).data, {"plain": gt}, **told)

    def _told(self, plans: Sequence[Plan], device: torch.device | None = None) -> dict[str, Tensor]:
        """Return the conditions of a batch: `kernel` (B, k, k), `sigma` (B,); no blur is a single pixel, no noise 0."""
        told = {}
        if "kernel" in self.conditions:
            kernels = [self._one(plan, "kernel") for plan in plans]
            told["kernel"] = _stack([np.ones((1, 1)) if kernel is None else kernel for kernel in kernels])
        if "sigma" in self.conditions:
            told["sigma"] = torch.tensor([self._one(plan, "sigma") or 0.0 for plan in plans])
        return told if device is None else {name: on_device(value, device) for name, value in told.items()}

    def _one(self, plan: Plan, condition: Literal["kernel", "sigma"]) -> Any:  # noqa: ANN401
        """Return what the one step that knows it says of its kernel or sigma."""
        told = {name: getattr(self._by_name[name], condition)(drawn) for name, drawn in plan.steps}
        told = {name: value for name, value in told.items() if value is not None}
        if len(told) > 1:
            raise ValueError(f"conditions: a sample has one {condition}, but {' and '.join(told)} each draw one")
        return next(iter(told.values()), None)


def _stack(kernels: Sequence[np.ndarray]) -> Tensor:
    """Stack odd kernels of any sizes in the middle of the largest, (B, k, k) float32."""
    size = max(kernel.shape[0] for kernel in kernels)
    padded = [np.pad(kernel, (size - kernel.shape[0]) // 2) for kernel in kernels]
    return torch.from_numpy(np.stack(padded).astype(np.float32))
