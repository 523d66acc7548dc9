"""Truncation to 8 bits."""

from collections.abc import Sequence

import numpy as np

from degradations import STEPS, Drawn, Ragged, State, Step


@STEPS.register("truncate")
class Truncate(Step):
    """Cut to whole 8-bit levels, always towards 0; outside [0, 1] it goes round modulo 256.

    Quirk: not a rounding anyone would choose, but what SciPy makes of an 8-bit image that is convolved, and so what
    USRNet was trained on and its published table measured with: half a level darker than the truth.
    """

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        return {}

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        # A thousandth of a level, so that single precision leaves flat areas on the level that they have.
        return images.map(lambda data: (data * 255 + 1e-3).trunc_().remainder_(256).div_(255))
