"""Halving of the image before all else."""

from collections.abc import Sequence

import numpy as np

from degradations import STEPS, Drawn, Ragged, State, Step
from degradations.operations.resizing import MODES, draw_mode, resize_drawn
from utils.options.fields import PositiveInt, Prob


@STEPS.register("halve")
class Halve(Step):
    """Halve the image, so that everything after sees half the scale (BSRGAN, Sec. 3.2; released for x4 only). Clipped.

    Args:
        matlab_prob: how often it is MATLAB's bicubic; otherwise one of OpenCV's three interpolations.
        when_factor: the even scale still to go at which it happens, and at no other.
    """

    def __init__(self, matlab_prob: Prob = 0.5, when_factor: PositiveInt = 4) -> None:
        if when_factor % 2:
            raise ValueError(f"when_factor is {when_factor}, expected an even number")
        self.matlab_prob, self.when_factor = matlab_prob, when_factor

    def sample(self, rng: np.random.Generator, state: State) -> Drawn | None:
        if state.factor != self.when_factor:
            return None
        mode = "matlab" if rng.random() < self.matlab_prob else draw_mode(rng, MODES)
        state.factor //= 2
        state.size = (state.size[0] // 2, state.size[1] // 2)
        return {"size": list(state.size), "mode": mode}

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        return resize_drawn(images, drawn)
