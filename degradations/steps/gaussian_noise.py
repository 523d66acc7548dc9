"""Additive Gaussian noise."""

from collections.abc import Sequence

import numpy as np

from degradations import STEPS, Drawn, Ragged, State, Step
from degradations.operations.noise import KINDS, Levels, check_noise, draw_noise, drawn_noise
from utils.options.fields import LevelRange, Prob, RangeSchedule, Weights


@STEPS.register("gaussian_noise")
class GaussianNoise(Step):
    """Add Gaussian noise: independent per channel, one gray plane for all, or correlated (BSRGAN, Sec. 3.3).

    Args:
        level_range: the standard deviation in 8-bit units, drawn as `levels` says.
        kinds: probabilities of `color`, `gray` and `correlated`.
        levels: whole numbers, or drawn continuously.
        clean_prob: how often the level is 0 instead.
        clip: whether to cut the result to [0, 1].

    Quirk: correlated noise does not use the drawn level; its covariance is |L² MᵀDM| with L the top of the range,
    D random in [0, 1] and M a random orthogonal matrix, as released.
    """

    def __init__(
        self,
        level_range: LevelRange = RangeSchedule.fixed(2, 25),  # noqa: B008 - never written to
        kinds: Weights = KINDS,
        levels: Levels = "whole",
        clean_prob: Prob = 0.0,
        clip: bool = True,
    ) -> None:
        check_noise(kinds, level_range, levels)
        self.level_range, self.kinds, self.clean_prob, self.clip = level_range, kinds, clean_prob, clip
        self.levels: Levels = levels

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        drawn = draw_noise(rng, self.level_range.at(state.iteration), self.kinds, self.levels)
        if self.clean_prob and rng.random() < self.clean_prob:
            return {"kind": "gray", "seed": drawn["seed"], "level": 0}
        return drawn

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        noisy = images.data + drawn_noise(images, drawn)
        return Ragged(noisy.clamp_(0, 1) if self.clip else noisy, images.sizes)

    def sigma(self, drawn: Drawn) -> float:
        """Return the drawn standard deviation; of correlated noise, the root mean square over the channels."""
        if drawn["kind"] != "correlated":
            return drawn["level"] / 255
        return float(np.sqrt(np.trace(drawn["covariance"]) / 3))
