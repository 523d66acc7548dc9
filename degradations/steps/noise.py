"""Random noise. A plan holds the seed of each noise field, so that a sample can be made again anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from degradations import STEPS, Drawn, Ragged, State, Step
from utils.fields import LevelRange, Prob, RangeSchedule, Weights
from utils.seeding import draw_seed, torch_generator


def normal_fields(images: Ragged, seeds: Sequence[int], planes: Sequence[int]) -> list[Tensor]:
    """A standard normal field (planes, h, w) for each image, each from its own seed."""
    device = images.data.device
    return [
        torch.randn((n, h, w), generator=torch_generator(seed, device), device=device)
        for (h, w), seed, n in zip(images.sizes, seeds, planes, strict=True)
    ]


def poisson_counts(rates: Sequence[Tensor], seeds: Sequence[int]) -> list[Tensor]:
    """Poisson counts for fields of expected counts, of any shapes, each from its own seed. Exactly 0 where 0."""
    return [
        torch.poisson(rate, generator=torch_generator(seed, rate.device))
        for rate, seed in zip(rates, seeds, strict=True)
    ]


KINDS: Weights = {"color": 0.4, "gray": 0.4, "correlated": 0.2}
"""How often noise is independent per channel, one plane for all channels, or correlated between channels."""


Levels = Literal["whole", "continuous"]


def check_noise(kinds: Weights, level_range: RangeSchedule, levels: Levels = "whole") -> None:
    """Raises ValueError for a kind of noise that does not exist, and for levels that would be cut to whole ones."""
    if unknown := set(kinds) - set(KINDS):
        raise ValueError(f"kinds: found {sorted(unknown)}, expected {', '.join(KINDS)}")
    if levels == "whole" and any(level % 1 for _, ends in level_range.points for level in ends):
        raise ValueError(f"level_range: found {level_range}, expected whole levels, or `levels: continuous` beside it")


def draw_noise(
    rng: np.random.Generator, level_range: tuple[float, float], kinds: Weights, levels: Levels = "whole"
) -> Drawn:
    """Kind, seed and strength of a noise field: a level in 8-bit units, or a covariance (see GaussianNoise)."""
    low, high = level_range
    level = int(rng.integers(int(low), int(high) + 1)) if levels == "whole" else float(rng.uniform(low, high))
    kind = str(rng.choice(list(kinds), p=list(kinds.values())))
    drawn: Drawn = {"kind": kind, "seed": draw_seed(rng)}
    if kind == "correlated":
        return {**drawn, "covariance": random_covariance(rng, high / 255).tolist()}
    return {**drawn, "level": level}


def drawn_noise(images: Ragged, drawn: Sequence[Drawn]) -> list[Tensor]:
    """The noise (C or 1, h, w) that was drawn for each image, in [0, 1] units."""
    planes = [1 if d["kind"] == "gray" else images.data.shape[1] for d in drawn]
    fields = normal_fields(images, [d["seed"] for d in drawn], planes)
    return [shaped_noise(field, d) for field, d in zip(fields, drawn, strict=True)]


@STEPS.register("gaussian_noise")
class GaussianNoise(Step):
    """Additive Gaussian noise: independent per channel, one gray plane for all, or correlated (BSRGAN, Sec. 3.3).

    Args:
        level_range: the standard deviation in 8-bit units, drawn as a whole number or, with `levels`, continuously.
        kinds: probabilities of `color`, `gray` and `correlated`.
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
        noise = drawn_noise(images, drawn)
        noisy = images.per_image(lambda image, i: image + noise[i])
        return noisy.clip() if self.clip else noisy

    def sigma(self, drawn: Drawn) -> float:
        """Of correlated noise, the root mean square over the channels."""
        if drawn["kind"] != "correlated":
            return drawn["level"] / 255
        return float(np.sqrt(np.trace(drawn["covariance"]) / 3))


def random_covariance(rng: np.random.Generator, level: float) -> np.ndarray:
    """A random 3×3 channel covariance of the given strength."""
    # QR of a random matrix spans the same columns as KAIR's scipy.linalg.orth; the sign does not matter to MᵀDM.
    eigenvalues = rng.random(3)
    matrix = np.linalg.svd(rng.random((3, 3)))[0]
    return np.abs(level**2 * matrix.T @ np.diag(eigenvalues) @ matrix)


def shaped_noise(field: Tensor, drawn: Drawn) -> Tensor:
    """Turns a standard normal field into the noise that was drawn: (3 or 1, h, w) in [0, 1] units."""
    if drawn["kind"] != "correlated":
        return field * (drawn["level"] / 255)
    values, vectors = np.linalg.eigh(np.asarray(drawn["covariance"]))
    root = torch.as_tensor(vectors * np.sqrt(np.clip(values, 0, None)), dtype=field.dtype, device=field.device)
    return torch.einsum("ij,jhw->ihw", root, field)
