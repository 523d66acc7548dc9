"""Multiplicative noise."""

from collections.abc import Sequence

import numpy as np

from degradations import STEPS, Drawn, Ragged, State, Step
from degradations.operations.noise import KINDS, check_noise, draw_noise, drawn_noise
from utils.options.fields import LevelRange, RangeSchedule, Weights


@STEPS.register("speckle_noise")
class SpeckleNoise(Step):
    """Add Gaussian noise multiplied by the image (KAIR's bsrgan_plus; after the speckle of coherent imaging).

    Clipped before and after. The correlated kind has the oddity of `gaussian_noise`.

    Args:
        level_range: the standard deviation at white in 8-bit units, a whole number.
        kinds: probabilities of `color`, `gray` and `correlated`.
    """

    def __init__(
        self,
        level_range: LevelRange = RangeSchedule.fixed(2, 25),  # noqa: B008 - never written to
        kinds: Weights = KINDS,
    ) -> None:
        check_noise(kinds, level_range)
        self.level_range, self.kinds = level_range, kinds

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        return draw_noise(rng, self.level_range.at(state.iteration), self.kinds)

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        clipped = images.data.clamp(0, 1)
        return Ragged((clipped * drawn_noise(images, drawn)).add_(clipped).clamp_(0, 1), images.sizes)
