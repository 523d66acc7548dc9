"""Back-projection: a result corrected so that, made small again, it is the input (Irani and Peleg 1991)."""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from utils.images.resize import imresize
from utils.options.fields import Positive, PositiveInt


@dataclass(frozen=True)
class BackProjection:
    """sr + weight · up(lq - down(sr)), `iterations` times. It holds for inputs that are as `down` makes them: noise of
    the input comes through with it.

    Args:
        weight: of the correction.
        iterations: how often it is made.
        down: and up are MATLAB's bicubic, which averages when it shrinks, or, as `released` with RealSR, PyTorch's
            (a = -0.75), which does not and so sees a few pixels only.
    """

    weight: Positive = 0.2
    iterations: PositiveInt = 1
    down: Literal["bicubic", "released"] = "bicubic"

    def __str__(self) -> str:
        return f"back-projection (weight {self.weight:g}, {self.iterations} times, down: {self.down})"

    def __call__(self, sr: Tensor, lq: Tensor) -> Tensor:
        """Return the corrected (B, C, H, W), not clipped, from a result and its input (B, C, h, w)."""
        for _ in range(self.iterations):
            sr = sr + self.weight * self._resized(lq - self._resized(sr, lq), sr)
        return sr

    def _resized(self, image: Tensor, like: Tensor) -> Tensor:
        height, width = like.shape[-2:]
        if self.down == "released":
            return F.interpolate(image, size=(height, width), mode="bicubic", align_corners=False)
        return imresize(image, size=(height, width))
