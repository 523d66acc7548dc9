"""How kernels are estimated, as option files and command lines say it; the estimation itself is slow to load."""

from dataclasses import dataclass
from typing import Literal

from utils.options.fields import Count, NonNegative, PositiveInt


@dataclass(frozen=True)
class KernelGAN:
    """How kernels are estimated."""

    scale: Literal[2, 4] = 4
    """Of the kernels; x4 is derived from x2 by applying it twice."""
    iterations: PositiveInt | None = None
    """Steps of both networks (default: 600, or the released code's 3000, for which its rates and weights are made)."""
    real_image: bool = True
    """Use images up to their border."""
    noise_scale: NonNegative = 1.0
    """Standard deviation of the noise on the discriminator's inputs, in 8-bit levels."""
    released: bool = False
    """The released code with its faults, for comparison."""
    seed: Count = 0
    """With an image's content, fixes everything random."""

    @property
    def steps(self) -> int:
        """How many iterations."""
        return self.iterations or (3000 if self.released else 600)
