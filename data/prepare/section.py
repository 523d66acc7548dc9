"""The `prepare:` section of an option file. What it asks for is loaded only when it is done (`data.prepare.steps`)."""

from dataclasses import dataclass
from typing import Literal

from degradations.kernelgan.settings import KernelGAN
from utils.options.fields import NonNegative, Pair, PositiveInt, Prob


@dataclass(frozen=True)
class NoisePatches:
    """Which tiles are collected, by the 8-bit luma L (ITU-R BT.601, rounded) of each.

    `variance` (Ji et al., CVPRW 2020, Sec. 3.2): the variance of L is below `max_variance`. `quantile`: the share
    `flattest` of all tiles of all images, by the variance of L less its Gaussian blur of 5 pixels, which is taken out
    of what is collected, too. Either way the mean of L is in `mean_range`, above its low end, and tiles that tell
    nothing of noise are left out: those that are constant, and those clipped, that is with a channel at 0 or at its
    highest value, in a tenth of their pixels (`quantile`: in any).
    """

    rule: Literal["variance", "quantile"] = "variance"
    """How flat tiles are told from others."""
    size: PositiveInt | None = None
    """Pixels of a tile's side (default: 256; 64 for the rule quantile)."""
    stride: PositiveInt | None = None
    """Pixels between the beginnings of tiles (default: the size)."""
    max_variance: NonNegative = 20.0
    """Of the rule variance: what the variance of a tile is below."""
    flattest: Prob = 0.05
    """Of the rule quantile: the share of all tiles that is collected."""
    mean_range: Pair | None = None
    """Which mean luma a tile has (default: 0 255; 15 240 for the rule quantile)."""
    released: bool = False
    """As the released code: lose the tiles that end at the right or lower border; the rule variance takes constant and
    clipped ones."""

    @property
    def side(self) -> int:
        """Pixels of a tile."""
        return self.size or (256 if self.rule == "variance" else 64)

    @property
    def means(self) -> tuple[float, float]:
        """What the mean is above, and what it is not above."""
        return self.mean_range or ((0, 255) if self.rule == "variance" else (15, 240))


@dataclass(frozen=True)
class CleanHr:
    """Sources become smaller by `factor` with MATLAB's bicubic filter (Ji et al., CVPRW 2020, "clean-up")."""

    factor: PositiveInt = 2
    """How many times smaller."""
    released: bool = False
    """Cut the fraction off instead of rounding, as the released code does."""


@dataclass(frozen=True)
class Prepare:
    """What is made of the images of `source` (and of `target`, clean ones) in the folder `out`; null leaves a step out.

    Attributes:
        source: a folder of photographs, at any depth.
        target: a folder of clean images, taken as they are.
        out: where to.
        kernels: OUT/kernels/kernels_x4.npz, for `kernel_bank`.
        noise: OUT/noise, for `real_noise`.
        hr: OUT/hr, for data of `type: folder`.
        batch: images whose kernels are estimated together.
    """

    source: str
    out: str
    target: str | None = None
    kernels: KernelGAN | None = None
    noise: NoisePatches | None = None
    hr: CleanHr | None = None
    batch: PositiveInt = 16
