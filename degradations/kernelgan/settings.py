"""How kernels are estimated, as option files and command lines say it; the estimation itself is slow to load."""

from dataclasses import dataclass
from typing import Literal

from utils.options.fields import Count, NonNegative, PositiveInt


@dataclass(frozen=True)
class KernelGAN:
    """How kernels are estimated.

    scale: of the kernels; x4 is derived from x2 by applying it twice. iterations: steps of both networks, by default
    600, or 3000 of the released code, whose rates and weights are made for that. real_image: use images up to their
    border. noise_scale: standard deviation of the noise on the discriminator's inputs, in 8-bit levels. released: the
    released code with its faults, for comparison. seed: with an image's content, fixes everything random.
    """

    scale: Literal[2, 4] = 4
    iterations: PositiveInt | None = None
    real_image: bool = True
    noise_scale: NonNegative = 1.0
    released: bool = False
    seed: Count = 0

    @property
    def steps(self) -> int:
        """How many iterations."""
        return self.iterations or (3000 if self.released else 600)
