"""Losses that compare pixel with pixel."""

import torch
import torch.nn.functional as F
from torch import Tensor

from losses import LOSSES, Loss
from utils.options.fields import Positive


@LOSSES.register("l1")
class L1Loss(Loss):
    """Average absolute differences."""

    def forward(self, sr: Tensor, target: Tensor, **extras: Tensor) -> Tensor:
        return F.l1_loss(sr, target)


@LOSSES.register("l2")
class L2Loss(Loss):
    """Average squared differences."""

    def forward(self, sr: Tensor, target: Tensor, **extras: Tensor) -> Tensor:
        return F.mse_loss(sr, target)


@LOSSES.register("charbonnier")
class CharbonnierLoss(Loss):
    """Average sqrt(difference² + eps), a smooth L1 (Charbonnier et al., ICIP 1994).

    Args:
        eps: added under the root, so the smallest value is sqrt(eps). KAIR's default is 1e-9, BasicSR's 1e-12.
    """

    def __init__(self, eps: Positive = 1e-9) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, sr: Tensor, target: Tensor, **extras: Tensor) -> Tensor:
        return torch.sqrt((sr - target) ** 2 + self.eps).mean()
