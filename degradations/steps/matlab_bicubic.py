"""MATLAB's antialiased bicubic."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from degradations import STEPS, Drawn, Ragged, State, Step
from degradations.operations.resizing import resize_drawn
from utils.images.resize import Border


@STEPS.register("matlab_bicubic")
class MatlabBicubic(Step):
    """Resize to the low-quality size by MATLAB's antialiased bicubic (`imresize`).

    Args:
        rounding: to 8 bits, as files are, or `none`.
        clip: whether to cut the result to [0, 1]; false goes with `rounding: none`.
        border: mirrored with the edge pixel repeated (`symmetric`), or the edge pixel alone (`replicate`: DASR's
            released code).
    """

    def __init__(
        self, rounding: Literal["8bit", "none"] = "8bit", clip: bool = True, border: Border = "symmetric"
    ) -> None:
        if rounding == "8bit" and not clip:
            raise ValueError("clip: found false with 8-bit rounding, which clips; expected `rounding: none` beside it")
        self.rounding, self.clip = rounding, clip
        self.border: Border = border

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        state.size = state.lq_size
        return {"size": list(state.size), "mode": "matlab"}

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        result = resize_drawn(images, drawn, self.clip, self.border)
        return result.round() if self.rounding == "8bit" else result
