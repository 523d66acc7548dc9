"""Locally discriminative learning: a pixel loss where the generator invents artifacts."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from losses import LOSSES, Loss

_WINDOW = 7
_TINY = 1e-12  # bounds the slope of variance^(1/5), which is infinite where an image has no residual


@LOSSES.register("ldl")
class LdlLoss(Loss):
    """Average absolute differences, weighted by a map of artifacts (Liang et al., CVPR 2022).

    Images (B, C, H, W) have sides from 4 up. The gradient flows through the map too: it also lowers the spread of
    the residual. `sr_ema` is the averaged generator's output on the same batch, taken as a constant.
    """

    needs: ClassVar[tuple[str, ...]] = ("sr_ema",)

    def forward(self, sr: Tensor, target: Tensor, **extras: Tensor) -> Tensor:
        return (artifact_map(sr, extras["sr_ema"], target) * (sr - target).abs()).mean()


def artifact_map(sr: Tensor, sr_ema: Tensor, target: Tensor) -> Tensor:
    """Return how much each pixel looks like an artifact: (B, 1, H, W), not negative.

    With the residual r = |target - sr| summed over channels: (variance of r over the image)^(1/5) times the variance
    of r in 7x7 pixels (both unbiased, mirrored borders), and 0 where the averaged generator has a larger residual,
    for there training is on its way to the better.
    """
    residual, residual_ema = ((target - output).abs().sum(1, keepdim=True) for output in (sr, sr_ema))
    of_image = residual.var((1, 2, 3), keepdim=True).clamp_min(_TINY) ** 0.2
    return torch.where(residual < residual_ema, 0, of_image * _local_variance(residual))


def _local_variance(x: Tensor) -> Tensor:
    padded = F.pad(x, (_WINDOW // 2,) * 4, mode="reflect")
    mean, mean_square = (F.avg_pool2d(image, _WINDOW, stride=1) for image in (padded, padded**2))
    count = _WINDOW**2
    return (mean_square - mean**2).clamp_min(0) * (count / (count - 1))
