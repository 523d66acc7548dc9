"""Small functions that several networks share."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def require_multiple(image: Tensor, multiple: int, network: str) -> None:
    """Raises ValueError unless both sides of `image` (B, C, H, W) are multiples of `multiple`."""
    height, width = image.shape[-2:]
    if height % multiple or width % multiple:
        raise ValueError(
            f"{network}: found an image of {height}x{width} (height x width), expected both sides to be multiples of "
            f"{multiple}; pad it or choose another crop size"
        )


@torch.no_grad()
def damp_convolutions(module: nn.Module, factor: float) -> None:
    """Fills every convolution with `factor` times Kaiming normal (fan-in, ReLU gain), and its bias with 0.

    ESRGAN (Wang et al. 2018, section 3.1) starts residual branches small, so that deep networks without
    normalisation begin near the identity.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight).mul_(factor)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
