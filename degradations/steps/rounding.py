"""Rounding to 8 bits, as storing an image does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from degradations import STEPS, Drawn, Ragged, State, Step


def round_to_8_bits(images: Ragged) -> Ragged:
    """Whole levels divided by 255, clipped; halves go to the even level."""
    return images.map(lambda data: data.clamp(0, 1).mul_(255).round_().div_(255))


@STEPS.register("round")
class Round(Step):
    """Rounds to 8 bits and clips: nothing random."""

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        return {}

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        return round_to_8_bits(images)
