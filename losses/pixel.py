"""Losses that compare pixel with pixel.

`reduction: sum` adds up over the whole batch (of a rank and micro-batch) what `mean` averages: KAIR's l2sum. Gradients
are then as much larger as a batch has numbers.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from losses import LOSSES, Loss
from utils.options.fields import Positive

Reduction = Literal["mean", "sum"]


@LOSSES.register("l1")
class L1Loss(Loss):
    """Average absolute differences.

    Args:
        reduction: the mean, or the sum.
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, sr: Tensor, target: Tensor, **extras: Tensor) -> Tensor:
        return F.l1_loss(sr, target, reduction=self.reduction)


@LOSSES.register("l2")
class L2Loss(Loss):
    """Average squared differences.

    Args:
        reduction: the mean, or the sum.
    """

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, sr: Tensor, target: Tensor, **extras: Tensor) -> Tensor:
        return F.mse_loss(sr, target, reduction=self.reduction)


@LOSSES.register("charbonnier")
class CharbonnierLoss(Loss):
    """Average sqrt(difference² + eps), a smooth L1 (Charbonnier et al., ICIP 1994).

    Args:
        eps: added under the root, so the smallest value is sqrt(eps). KAIR's default is 1e-9, BasicSR's 1e-12.
        reduction: the mean, or the sum.
    """

    def __init__(self, eps: Positive = 1e-9, reduction: Reduction = "mean") -> None:
        super().__init__()
        self.eps, self.reduction = eps, reduction

    def forward(self, sr: Tensor, target: Tensor, **extras: Tensor) -> Tensor:
        distance = torch.sqrt((sr - target) ** 2 + self.eps)
        return distance.mean() if self.reduction == "mean" else distance.sum()
