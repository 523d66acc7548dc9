"""A degradation as an order rule over named steps. `type: pipeline` takes any steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor

from degradations import DEGRADATIONS, Degradation, Degraded, Plan, Size, State, StepEntry, run_steps
from utils.fields import Prob
from utils.seeding import draw_seed, generator


@dataclass(frozen=True)
class Order:
    """In which order the steps of a pipeline are applied.

    `fixed` keeps the order of the file; `shuffle` permutes all steps; `local_shuffle` permutes each of the `groups`
    among its own places; `choice` applies one step alone, all equally likely. `first` and `last` stay at the ends.
    Steps named in `in_order` keep their order among themselves, whatever places a shuffle gives them. With
    probability `full_prob` a local shuffle becomes a full one.
    """

    rule: Literal["fixed", "shuffle", "local_shuffle", "choice"] = "fixed"
    first: tuple[str, ...] = ()
    last: tuple[str, ...] = ()
    in_order: tuple[str, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()
    full_prob: Prob = 0.0

    def draw(self, names: Sequence[str], seed: int) -> list[str]:
        """An order of the named steps. Names that this rule mentions but the pipeline lacks do not count."""
        first = [n for n in self.first if n in names]
        last = [n for n in self.last if n in names]
        middle = [n for n in names if n not in (*first, *last)]
        # A sort key per name, so that removing one step leaves the order of the others as it was.
        key = {name: float(generator(seed, "order", name).random()) for name in middle}
        full = generator(seed, "order").random() < self.full_prob
        if self.rule == "shuffle" or (self.rule == "local_shuffle" and full):
            middle.sort(key=key.__getitem__)
        elif self.rule == "local_shuffle":
            for group in self.groups:
                _reorder(middle, sorted((n for n in middle if n in group), key=key.__getitem__))
        elif self.rule == "choice" and middle:
            middle = [min(middle, key=key.__getitem__)]
        _reorder(middle, [n for n in self.in_order if n in middle])
        return [*first, *middle, *last]


def _reorder(names: list[str], wanted: Sequence[str]) -> None:
    """Puts the wanted names, in their order, into the places that they hold together."""
    places = [i for i, name in enumerate(names) if name in wanted]
    for place, name in zip(places, wanted, strict=True):
        names[place] = name


@DEGRADATIONS.register("pipeline")
class Pipeline(Degradation):
    """Named steps in an order drawn anew for each sample.

    Each step draws from a stream of its own, so switching one off changes nothing else that is drawn. The last size
    must be the ground truth's divided by `scale`.

    Steps named in `gt_steps` come first, whatever the order, and what they give is the ground truth for all that
    follows: the target `plain` and the start of the degradation. They keep the size.
    """

    conditions: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        steps: Mapping[str, StepEntry],
        scale: int,
        order: Order = Order(),  # noqa: B008 - frozen
        gt_steps: tuple[str, ...] = (),
    ) -> None:
        self.steps, self.scale, self.gt_steps = dict(steps), scale, gt_steps
        self.order = replace(order, first=(*gt_steps, *(name for name in order.first if name not in gt_steps)))
        self._by_name = {name: entry.step for name, entry in steps.items()}
        for i in range(8):
            self.sample(np.random.default_rng(i), (96 * scale, 80 * scale))

    def sample(
        self,
        rng: np.random.Generator,
        size: Size,
        iteration: int = 0,
        shared: Mapping[str, Any] | None = None,
    ) -> Plan:
        if size[0] % self.scale or size[1] % self.scale:
            raise ValueError(f"a ground truth of {size[0]}x{size[1]} is not a multiple of the scale {self.scale}")
        seed = draw_seed(rng)
        state = State(size, size, self.scale, self.scale, iteration, shared or {})
        drawn = []
        for name in self.order.draw(list(self.steps), seed):
            own = generator(seed, "step", name)
            if (
                own.random() < self.steps[name].prob
                and (values := self.steps[name].step.sample(own, state)) is not None
            ):
                drawn.append((name, values))
            if name in self.gt_steps and state.size != size:
                raise ValueError(f"{name}: a step of the ground truth must not change its size")
        if state.size != state.lq_size:
            raise ValueError(
                f"the steps end at {state.size[0]}x{state.size[1]} for a ground truth of {size[0]}x{size[1]} at scale "
                f"{self.scale}, expected {state.lq_size[0]}x{state.lq_size[1]}; add a step such as resize_to_lq"
            )
        return Plan(size, self.scale, tuple(drawn))

    def apply(self, gt: Tensor, plans: Sequence[Plan], lq: Tensor | None = None) -> Degraded:
        cuts = [sum(name in self.gt_steps for name, _ in plan.steps) for plan in plans]
        if any(cuts):
            heads = [replace(plan, steps=plan.steps[:cut]) for plan, cut in zip(plans, cuts, strict=True)]
            plans = [replace(plan, steps=plan.steps[cut:]) for plan, cut in zip(plans, cuts, strict=True)]
            gt = run_steps(gt, heads, self._by_name).data
        return Degraded(run_steps(gt, plans, self._by_name).data, {"plain": gt})
