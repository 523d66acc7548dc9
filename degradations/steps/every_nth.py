"""What the classical degradation does after its blur: truncation to 8 bits, and keeping one pixel of each block."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from degradations import STEPS, Drawn, Ragged, State, Step


@STEPS.register("every_nth")
class EveryNth(Step):
    """Keeps the upper left pixel of each s×s block, s being the scale still to go. Nothing random."""

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        stride, state.factor = state.factor, 1
        state.size = (-(-state.size[0] // stride), -(-state.size[1] // stride))
        return {"stride": stride}

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        strides = [d["stride"] for d in drawn]
        return images.per_image(lambda image, i: image[:, :: strides[i], :: strides[i]])


@STEPS.register("truncate")
class Truncate(Step):
    """Cuts to whole 8-bit levels, always towards 0; outside [0, 1] it goes round modulo 256.

    Quirk: not a rounding anyone would choose, but what SciPy makes of an 8-bit image that is convolved, and so what
    USRNet was trained on and its published table measured with: half a level darker than the truth.
    """

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        return {}

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        # A thousandth of a level, so that single precision leaves flat areas on the level that they have.
        return images.map(lambda data: (data * 255 + 1e-3).trunc_().remainder_(256).div_(255))
