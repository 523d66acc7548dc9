"""Rounding to 8 bits, as storing an image does."""

from collections.abc import Sequence

import numpy as np

from degradations import STEPS, Drawn, Ragged, State, Step


@STEPS.register("round")
class Round(Step):
    """Clip, and round to 8 bits: nothing random."""

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        return {}

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        return images.round()
