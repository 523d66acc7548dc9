"""Total variation: how much neighbouring pixels of an output differ, whatever its target."""

from typing import ClassVar

from torch import Tensor

from losses import LOSSES, Loss


@LOSSES.register("tv")
class TotalVariation(Loss):
    """Mean absolute difference between vertical neighbours plus that between horizontal ones (BasicSR's TV loss)."""

    compares: ClassVar[bool] = False

    def forward(self, sr: Tensor, target: Tensor, **extras: Tensor) -> Tensor:
        return sr.diff(dim=-2).abs().mean() + sr.diff(dim=-1).abs().mean()
