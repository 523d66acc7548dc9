"""SRVGGNetCompact, the small generator of Real-ESRGAN (realesr-animevideov3, realesr-general-x4v3).

A plain stack of convolutions at the input's size, a pixel shuffle at the end, and the nearest-neighbour upsampled
input added. Keys are BasicSR's.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from models.network import NETWORKS, Network
from utils.options.fields import Count, PositiveInt


@NETWORKS.register("srvgg")
class SRVGGNetCompact(Network):
    """Map `lq` (B, num_in_ch, h, w) to `sr` (B, num_out_ch, h·scale, w·scale) by SRVGGNetCompact.

    Args:
        scale: any factor.
        upscale: factor of the pixel shuffle, the scale by default. Where it differs, the result is resized to the
            scale by a bicubic that does not average: realesr-animevideov3-x2 and -x3 of realesrgan-ncnn are the x4
            network so.
        num_in_ch: channels of `lq`.
        num_out_ch: channels of `sr`.
        num_feat: channels between convolutions.
        num_conv: convolutions between the first and the last: 16 in animevideov3, 32 in
            general-x4v3.
        act_type: activation; `prelu` has a slope per channel, `leakyrelu` the slope 0.1.

    Raises:
        ValueError: if the input cannot be added to the output.

    >>> import torch
    >>> NETWORKS.build({"type": "srvgg", "scale": 4, "num_feat": 8, "num_conv": 2})(torch.rand(1, 3, 16, 24)).shape
    torch.Size([1, 3, 64, 96])
    """

    def __init__(
        self,
        scale: PositiveInt,
        num_in_ch: PositiveInt = 3,
        num_out_ch: PositiveInt = 3,
        num_feat: PositiveInt = 64,
        num_conv: Count = 16,
        act_type: Literal["relu", "prelu", "leakyrelu"] = "prelu",
        upscale: PositiveInt | None = None,
    ) -> None:
        super().__init__()
        if num_in_ch not in (1, num_out_ch):
            raise ValueError(
                f"found num_in_ch {num_in_ch} and num_out_ch {num_out_ch}, expected equal numbers (or one input "
                "channel): the upsampled input is added to the output"
            )
        self.scale, self.upscale = scale, upscale or scale
        layers: list[nn.Module] = [nn.Conv2d(num_in_ch, num_feat, 3, padding=1), _activation(act_type, num_feat)]
        for _ in range(num_conv):
            layers += [nn.Conv2d(num_feat, num_feat, 3, padding=1), _activation(act_type, num_feat)]
        layers.append(nn.Conv2d(num_feat, num_out_ch * self.upscale**2, 3, padding=1))
        self.body = nn.Sequential(*layers)

    def forward(self, lq: Tensor) -> Tensor:
        residual = F.pixel_shuffle(self.body(lq), self.upscale)
        sr = residual + F.interpolate(lq, scale_factor=self.upscale, mode="nearest")
        if self.upscale == self.scale:
            return sr
        size = (lq.shape[-2] * self.scale, lq.shape[-1] * self.scale)
        return F.interpolate(sr, size=size, mode="bicubic", align_corners=False)


def _activation(kind: str, channels: int) -> nn.Module:
    match kind:
        case "prelu":
            return nn.PReLU(channels)
        case "leakyrelu":
            return nn.LeakyReLU(0.1, inplace=True)
        case _:
            return nn.ReLU(inplace=True)
