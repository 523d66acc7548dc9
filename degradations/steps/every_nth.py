"""Downsampling by keeping one pixel of each block."""

from collections.abc import Sequence

import numpy as np

from degradations import STEPS, Drawn, Ragged, State, Step


@STEPS.register("every_nth")
class EveryNth(Step):
    """Keep the upper left pixel of each s×s block, s being the scale still to go. Nothing random."""

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        stride, state.factor = state.factor, 1
        state.size = (-(-state.size[0] // stride), -(-state.size[1] // stride))
        return {"stride": stride}

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        strides = [d["stride"] for d in drawn]
        return images.per_image(lambda image, i: image[:, :: strides[i], :: strides[i]])
