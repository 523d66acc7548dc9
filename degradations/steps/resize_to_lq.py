"""The resize to the final low-quality size."""

from collections.abc import Sequence

import numpy as np

from degradations import STEPS, Drawn, Ragged, State, Step
from degradations.operations.resizing import MODES, Interpolation, draw_mode, resize_drawn


@STEPS.register("resize_to_lq")
class ResizeToLq(Step):
    """Resize to the low-quality size, whatever came before.

    Args:
        modes: interpolations, all equally likely.
        clip: whether to cut what cubic interpolation throws beyond [0, 1].
    """

    def __init__(self, modes: tuple[Interpolation, ...] = MODES, clip: bool = True) -> None:
        self.modes, self.clip = modes, clip

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        state.size = state.lq_size
        return {"size": list(state.size), "mode": draw_mode(state.decisions or rng, self.modes)}

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        return resize_drawn(images, drawn, self.clip)
