"""Warnings in words about a training that goes wrong slowly, from what is logged anyway."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from utils.options.fields import Positive, PositiveInt, Prob


@dataclass(frozen=True)
class Health:
    """From when on a run is warned of. A value has to stay above its threshold for `steps` iterations; null is never.

    Args:
        d_accuracy: share of images (or places of a logit map) that the discriminator judges rightly.
        colour_drift: largest difference of the mean colour between output and input of a batch, in 8-bit levels.
        data_wait: share of the time in which the step waits for data.
        steps: for how long, in iterations.
    """

    d_accuracy: Prob | None = 0.95
    colour_drift: Positive | None = 3.0
    data_wait: Prob | None = 0.1
    steps: PositiveInt = 1000


# Logged value: (threshold's name, what it means, what to change).
_RULES = {
    "d_accuracy": (
        "d_accuracy",
        "the discriminator tells restored from real images almost always, so the generator learns little from it",
        "lower optim_d.lr, let it step less often (turn_d.every), or give the gan loss less weight",
    ),
    "colour_drift": (
        "colour_drift",
        "the mean colour of the output leaves that of the input (8-bit levels)",
        "give the pixel loss more weight or lower optim_g.lr; if colours are meant to change, raise the threshold",
    ),
    "wait_share": (
        "data_wait",
        "the step waits for data this share of the time",
        "raise data.workers, cut images into tiles (python -m data.prepare tiles), or set degradation.where: device",
    ),
}


class HealthWatch:
    """Follows logged values; speaks once when one has been above its threshold for long enough, and again only after
    it was below."""

    def __init__(self, health: Health) -> None:
        self.health = health
        self._since: dict[str, int] = {}
        self._told: set[str] = set()
        self._newest = 0

    def look(self, iteration: int, values: Mapping[str, float]) -> list[str]:
        """The warnings that the values of an iteration give rise to."""
        found = []
        if iteration < self._newest:  # another stage, or back to a checkpoint
            self._since.clear()
            self._told.clear()
        self._newest = iteration
        for key, (threshold, meaning, advice) in _RULES.items():
            limit = getattr(self.health, threshold)
            if key not in values or limit is None:
                continue
            if values[key] <= limit:
                self._since.pop(key, None)
                self._told.discard(key)
                continue
            since = self._since.setdefault(key, iteration)
            if iteration - since >= self.health.steps and key not in self._told:
                self._told.add(key)
                found.append(
                    f"{key} is {values[key]:.3g}, above {limit:g} since iteration {since}: {meaning}; {advice} "
                    f"(threshold: logger.health.{threshold})"
                )
        return found
