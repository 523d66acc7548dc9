"""Non-blind restoration in closed form, as a network without parameters: the baseline that USRNet has to beat."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from models.network import NETWORKS, Network
from models.networks.usrnet import DataTerm, natural_step, psf_on_canvas
from utils.images.resize import imresize
from utils.options.fields import Positive, PositiveInt


@NETWORKS.register("closed_form")
class ClosedForm(Network):
    """Estimate linearly: `lq` (B, C, h, w), `kernel` (B, k, k), `sigma` (B,) to `sr` (B, C, h·scale, w·scale).

    The linear MMSE: for lq = Gx + n, with G circular blur then decimation, n white of variance σ², and x Gaussian
    around a start x₀ with covariance variance·P: sr = x₀ + PGᵀ(GPGᵀ + α + σ²/variance)⁻¹(lq − Gx₀). At scale 1 this is
    Wiener's filter. The scale may change from call to call; in float32 at least.

    Args:
        scale: the nominal scale, used where a call gives none.
        prior: P. `natural`: diagonal in frequency and falling as 1/|f|² (Field 1987), mean 1, constant below the
            lowest frequency of the image. `flat`: the identity, so this is one data step of USRNet from x₀.
        start: x₀, `lq` upscaled or zero.
        variance: mean square of x − x₀, for images in [0, 1]. Below that of photographs from zero, since their
            spectra fall faster than 1/|f|² where noise matters.
        alpha: regularisation without noise, relative to the prior: for rounding and errors of the kernel.

    >>> import torch
    >>> network = NETWORKS.build({"type": "closed_form", "scale": 2})
    >>> network(torch.rand(1, 3, 16, 24), kernel=torch.full((1, 5, 5), 1 / 25), sigma=torch.zeros(1)).shape
    torch.Size([1, 3, 32, 48])
    """

    conditions = ("kernel", "sigma", "scale")

    def __init__(
        self,
        scale: PositiveInt,
        prior: Literal["flat", "natural"] = "natural",
        start: Literal["bicubic", "nearest", "zero"] = "zero",
        variance: Positive = 0.01,
        alpha: Positive = 1e-4,
    ) -> None:
        super().__init__()
        self.scale, self.prior, self.start, self.variance, self.alpha = scale, prior, start, variance, alpha

    def forward(self, lq: Tensor, kernel: Tensor, sigma: Tensor, scale: int | None = None) -> Tensor:
        """Restore `lq`. Raises ValueError if the kernel is larger than the output."""
        scale = scale or self.scale
        x = self._start(lq, scale)
        psf = psf_on_canvas(kernel, (x.shape[-2], x.shape[-1]))
        strength = self.alpha + sigma.to(psf.dtype).square()[:, None, None, None] / self.variance
        if self.prior == "flat":
            return DataTerm.of(lq, psf, scale).step(x, strength)
        return natural_step(x, lq, psf, strength, scale)

    def _start(self, lq: Tensor, scale: int) -> Tensor:
        match self.start:
            case "bicubic":
                return imresize(lq, scale=scale)
            case "nearest":
                return F.interpolate(lq, scale_factor=scale, mode="nearest")
            case _:
                return lq.new_zeros(*lq.shape[:-2], lq.shape[-2] * scale, lq.shape[-1] * scale)
