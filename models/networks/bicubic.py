"""Bicubic upscaling as a network without parameters: the baseline of every benchmark table."""

from torch import Tensor

from models.network import NETWORKS, Network
from utils.images.resize import imresize
from utils.options.fields import PositiveInt


@NETWORKS.register("bicubic")
class Bicubic(Network):
    """Enlarge `lq` (B, C, h, w) to `sr` (B, C, h·scale, w·scale) by MATLAB's bicubic `imresize`, not clipped.

    >>> import torch
    >>> NETWORKS.build({"type": "bicubic", "scale": 4})(torch.rand(1, 3, 16, 24)).shape
    torch.Size([1, 3, 64, 96])
    """

    def __init__(self, scale: PositiveInt) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, lq: Tensor) -> Tensor:
        return imresize(lq, scale=self.scale)
