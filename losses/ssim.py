"""Structural similarity as a loss."""

import torch
import torch.nn.functional as F
from torch import Tensor

from losses import LOSSES, Loss

_WINDOW, _SIGMA = 11, 1.5
_C1, _C2 = 0.01**2, 0.03**2


@LOSSES.register("ssim")
class SsimLoss(Loss):
    """Return 1 - SSIM (Wang et al., TIP 2004) with a Gaussian window of 11 pixels, sigma 1.5.

    Quirk: the window sees zeros beyond the image, as in KAIR's loss, unlike the metric of that name. KAIR minimises
    SSIM itself, which drives images apart; here descent raises it.
    """

    def __init__(self) -> None:
        super().__init__()
        offsets = torch.arange(_WINDOW, dtype=torch.float64) - _WINDOW // 2
        window = torch.exp(-(offsets**2) / (2 * _SIGMA**2))
        self.register_buffer("window", (window / window.sum()).float(), persistent=False)

    def forward(self, sr: Tensor, target: Tensor, **extras: Tensor) -> Tensor:
        return 1 - self.similarity(sr, target)

    def similarity(self, sr: Tensor, target: Tensor) -> Tensor:
        """Return the mean SSIM of images (B, C, H, W) in [0, 1]."""
        mean_sr, mean_target = self._local_mean(sr), self._local_mean(target)
        product = mean_sr * mean_target
        squares = mean_sr**2 + mean_target**2
        covariance = self._local_mean(sr * target) - product
        variances = self._local_mean(sr**2 + target**2) - squares
        return ((2 * product + _C1) * (2 * covariance + _C2) / ((squares + _C1) * (variances + _C2))).mean()

    def _local_mean(self, images: Tensor) -> Tensor:
        """Return Gaussian means of the same size, each channel alone."""
        channels, margin = images.shape[1], _WINDOW // 2
        window = self.get_buffer("window").to(images.dtype)
        down = window.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
        along = window.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
        images = F.conv2d(images, down, padding=(margin, 0), groups=channels)
        return F.conv2d(images, along, padding=(0, margin), groups=channels)
