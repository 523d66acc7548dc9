"""MSRResNet, ESRGAN's SRResNet: residual blocks without batch normalisation, pixel shuffling, bicubic's place taken by
a bilinear image that the network adds to. RealSR's code has it besides RRDBNet. Keys are BasicSR's.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from models.network import NETWORKS, Network
from models.networks.blocks import damp_convolutions
from utils.options.fields import PositiveInt

STEP_FACTORS: dict[int, tuple[int, ...]] = {2: (2,), 3: (3,), 4: (2, 2)}


class ResidualBlock(nn.Module):
    """Apply two convolutions with a ReLU between; the result is added to the input."""

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


@NETWORKS.register("msrresnet")
class MSRResNet(Network):
    """Map `lq` (B, num_in_ch, h, w) to `sr` (B, num_out_ch, h·scale, w·scale) by MSRResNet.

    Args:
        scale: 2, 3 or 4.
        num_in_ch: channels of `lq`.
        num_out_ch: channels of `sr`, as many.
        num_feat: channels of all layers.
        num_block: residual blocks.

    Raises:
        ValueError: for another scale, or different numbers of channels in and out.

    >>> import torch
    >>> network = NETWORKS.build({"type": "msrresnet", "scale": 3, "num_feat": 8, "num_block": 1})
    >>> network(torch.rand(1, 3, 16, 24)).shape
    torch.Size([1, 3, 48, 72])
    """

    def __init__(
        self,
        scale: PositiveInt,
        num_in_ch: PositiveInt = 3,
        num_out_ch: PositiveInt = 3,
        num_feat: PositiveInt = 64,
        num_block: PositiveInt = 16,
    ) -> None:
        super().__init__()
        if scale not in STEP_FACTORS:
            raise ValueError(f"scale {scale} is unknown, expected one of {list(STEP_FACTORS)}")
        if num_in_ch != num_out_ch:
            raise ValueError(f"found {num_in_ch} channels in, {num_out_ch} out, expected equal numbers")
        self.scale = scale
        self.conv_first = nn.Conv2d(num_in_ch, num_feat, 3, padding=1)
        self.body = nn.Sequential(*[ResidualBlock(num_feat) for _ in range(num_block)])
        for number, factor in enumerate(STEP_FACTORS[scale], start=1):
            self.add_module(f"upconv{number}", nn.Conv2d(num_feat, num_feat * factor**2, 3, padding=1))
        self.conv_hr = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, padding=1)
        damp_convolutions(self, 0.1)

    def forward(self, lq: Tensor) -> Tensor:
        """Restore `lq`."""
        features = self.body(_lrelu(self.conv_first(lq)))
        for number, factor in enumerate(STEP_FACTORS[self.scale], start=1):
            features = _lrelu(F.pixel_shuffle(self.get_submodule(f"upconv{number}")(features), factor))
        base = F.interpolate(lq, scale_factor=self.scale, mode="bilinear", align_corners=False)
        return self.conv_last(_lrelu(self.conv_hr(features))) + base


def _lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.1, inplace=True)
