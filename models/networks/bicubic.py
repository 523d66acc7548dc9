"""Bicubic upscaling as a network without parameters: the baseline of every benchmark table."""

from __future__ import annotations

from torch import Tensor

from models.network import NETWORKS, Network
from utils.images.resize import imresize
from utils.options.fields import PositiveInt


@NETWORKS.register("bicubic")
class Bicubic(Network):
    """MATLAB's bicubic `imresize`: `lq` (B, C, h, w) to `sr` (B, C, h·scale, w·scale), not clipped."""

    def __init__(self, scale: PositiveInt) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, lq: Tensor) -> Tensor:
        return imresize(lq, scale=self.scale)
