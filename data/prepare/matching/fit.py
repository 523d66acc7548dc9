"""Narrows the ranges of a pipeline to what photographs show: approximate Bayesian computation.

Of each drawn value a regression on the traces of what was made says what they tell of it (Fearnhead and Prangle, JRSS B
2012). Where it says something else of the photographs than of the draws, the range becomes that part of it whose draws
it says the same of. So what the regression does not know makes no range wider.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.prepare.matching.distances import Traced, whitening
from degradations import Degradation, Plan, Step
from degradations.pipeline import Pipeline
from degradations.steps.one_of import OneOf
from utils.options.components import Spec, flat
from utils.options.fields import RangeSchedule

_CELLS, _SHORTEST, _FEWEST = 16, 5, 10  # of a range: where it may begin and end; what is left in a round; draws in it
_CRITICAL = 1.36  # Kolmogorov and Smirnov, 5 %
_LEAST = 30  # draws, from which on a regression is made
_RIDGE = 3.0
_FAR = 3.0  # spreads from the middle; what is farther says no more


@dataclass(frozen=True)
class Narrowed:
    """A range of the pipeline: where it stands in the option file, what it was and what the photographs show."""

    where: str
    before: tuple[float, float]
    after: tuple[float, float]


def narrowed(
    spec: Spec[Degradation], pipeline: Pipeline, plans: Sequence[Plan], draws: Traced, photos: Traced
) -> list[Narrowed]:
    """Return the ranges that photographs narrow.

    Args:
        spec, pipeline: the checked options, and what they build.
        plans, draws: by which images were made, and their traces, in one order.
        photos: the traces of the photographs; each speaks once, however many windows it has.
    """
    metric = whitening(photos, {"": draws})
    told, seen = (_terms(metric(folder.values)) for folder in (draws, photos))
    _, which, windows = np.unique(photos.image, return_inverse=True, return_counts=True)
    found = []
    for where, by_plan in drawn_ranges(spec, pipeline, plans).items():
        if len(by_plan) < _LEAST:
            continue
        values = [np.asarray(drawn) for drawn in by_plan.values()]
        own, theirs = _regressed(told[list(by_plan)], np.array([drawn.mean() for drawn in values]), seen)
        span = _span(values, own, theirs, 1 / windows[which] / len(windows), len(windows))
        if span is not None:
            every = np.concatenate(values)
            before = float(every.min()), float(every.max())
            after = _rounded(*span, whole=bool((every == np.rint(every)).all()))
            found.append(Narrowed(where, before, (max(after[0], before[0]), min(after[1], before[1]))))
    return found


def _span(
    values: Sequence[np.ndarray], own: np.ndarray, theirs: np.ndarray, shares: np.ndarray, witnesses: int
) -> tuple[float, float] | None:
    """Return the range of which draws look most like the photographs, or None if that of all draws does well enough.

    `values` are what each draw has of the range, `own` (n,) and `theirs` (m,) what the regression says of draws and of
    photographs, which have the `shares` (m,). A round leaves a third at least: as long as other ranges are wide, draws
    scatter more than photographs, which would look as if of one value.
    """
    places = np.concatenate([own, theirs])
    order = np.argsort(places, kind="stable")
    gaps = np.diff(places[order])

    def apart(chosen: np.ndarray) -> np.ndarray:
        """Return the difference of the distribution functions between the places, of the chosen draws."""
        return np.cumsum(np.concatenate([chosen / chosen.sum(), -shares])[order])[:-1]

    everything = np.ones(len(own))
    if np.abs(apart(everything)).max() < _CRITICAL * np.sqrt(1 / witnesses + 1 / len(own)):
        return None
    least, most = np.array([drawn.min() for drawn in values]), np.array([drawn.max() for drawn in values])
    edges = np.quantile(np.concatenate(values), np.linspace(0, 1, _CELLS + 1))
    best = float((apart(everything) ** 2) @ gaps), (float(edges[0]), float(edges[-1]))
    for low in range(_CELLS):
        for high in range(low + _SHORTEST, _CELLS + 1):
            chosen = ((least >= edges[low]) & (most <= edges[high])).astype(float)
            if chosen.sum() >= _FEWEST:
                distance = float((apart(chosen) ** 2) @ gaps)
                best = min(best, (distance, (float(edges[low]), float(edges[high]))))
    return best[1] if best[1] != (edges[0], edges[-1]) else None


def _terms(traces: np.ndarray) -> np.ndarray:
    """Return 1, the traces, and their products (n, terms)."""
    values = traces.clip(-_FAR, _FAR)
    first, second = np.triu_indices(values.shape[1])
    return np.concatenate([np.ones((len(values), 1)), values, values[:, first] * values[:, second]], axis=1)


def _regressed(told: np.ndarray, values: np.ndarray, seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return what ridge regression says of the ranks of values (n,): of each by all the others, and of what is seen."""
    ranks = values.argsort().argsort() / len(values)
    gram = told.T @ told + _RIDGE * np.diag([0.0, *[1.0] * (told.shape[1] - 1)])
    solved = np.linalg.solve(gram, told.T)
    coefficients = solved @ ranks
    leverage = np.einsum("ij,ji->i", told, solved)
    own = ranks - (ranks - told @ coefficients) / (1 - leverage).clip(1e-3)
    return own.clip(-0.5, 1.5), (seen @ coefficients).clip(-0.5, 1.5)


def _rounded(low: float, high: float, whole: bool) -> tuple[float, float]:
    """Round outwards, to whole numbers or to three digits."""
    if whole:
        return float(np.floor(low)), float(np.ceil(high))
    step = 10.0 ** (np.floor(np.log10(max(high - low, 1e-6))) - 1)
    return float(f"{np.floor(low / step) * step:.6g}"), float(f"{np.ceil(high / step) * step:.6g}")


# --- which drawn values a range is of --------------------------------------------------------------------------------


def drawn_ranges(
    spec: Spec[Degradation], pipeline: Pipeline, plans: Sequence[Plan]
) -> dict[str, dict[int, list[float]]]:
    """Return by the place of each range below the degradation: by plan, what it drew of it. Ranges that move with the
    iteration are left out."""
    options = flat(spec.values)
    found: dict[str, dict[int, list[float]]] = {}
    for number, plan in enumerate(plans):
        for name, drawn in plan.steps:
            place, step = _step(options, name, pipeline.steps[name].step, drawn)
            for option, values in step.ranged(drawn).items():
                where = f"{place}.{option}"
                current = options.get(where, ...)
                moving = isinstance(current, RangeSchedule) and len(current.points) > 1
                if current is not ... and not moving and values:
                    found.setdefault(where, {}).setdefault(number, []).extend(values)
    return found


def _step(options: Mapping[str, Any], name: str, step: Step, drawn: Mapping[str, Any]) -> tuple[str, Step]:
    """Return the place of a step of a plan, and the one that was drawn where it is one of several."""
    place = next(place for place in (f"steps.{name}", f"orders.{name}", name) if f"{place}.type" in options)
    return (f"{place}.of.{drawn['which']}", step.steps[drawn["which"]]) if isinstance(step, OneOf) else (place, step)
