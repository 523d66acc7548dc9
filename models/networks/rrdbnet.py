"""RRDBNet, the generator of ESRGAN (Wang et al. 2018, figures 3 and 4), BSRGAN, Real-ESRGAN and RealSR.

Residual in residual dense blocks at the input's size, then nearest-neighbour upsampling with convolutions. Keys are
BasicSR's; ESRGAN's and KAIR's are renamed by `models.weights`.

Scales other than 4 come in two published forms, see `RRDBNet`.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.network import NETWORKS, Network
from models.networks.blocks import damp_convolutions, require_multiple
from utils.options.fields import PositiveInt

UNSHUFFLE_FACTOR = {1: 4, 2: 2, 4: 1}
STEP_FACTORS: dict[int, tuple[int, ...]] = {1: (), 2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}


class ResidualDenseBlock(nn.Module):
    """Apply five densely connected convolutions; the result, scaled by 0.2, is added to the input."""

    def __init__(self, num_feat: int, num_grow_ch: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_feat, num_grow_ch, 3, padding=1)
        self.conv2 = nn.Conv2d(num_feat + num_grow_ch, num_grow_ch, 3, padding=1)
        self.conv3 = nn.Conv2d(num_feat + 2 * num_grow_ch, num_grow_ch, 3, padding=1)
        self.conv4 = nn.Conv2d(num_feat + 3 * num_grow_ch, num_grow_ch, 3, padding=1)
        self.conv5 = nn.Conv2d(num_feat + 4 * num_grow_ch, num_feat, 3, padding=1)
        damp_convolutions(self, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        x1 = _lrelu(self.conv1(x))
        x2 = _lrelu(self.conv2(torch.cat((x, x1), 1)))
        x3 = _lrelu(self.conv3(torch.cat((x, x1, x2), 1)))
        x4 = _lrelu(self.conv4(torch.cat((x, x1, x2, x3), 1)))
        x5 = self.conv5(torch.cat((x, x1, x2, x3, x4), 1))
        return x + 0.2 * x5


class RRDB(nn.Module):
    """Apply three residual dense blocks; the result, scaled by 0.2, is added to the input."""

    def __init__(self, num_feat: int, num_grow_ch: int) -> None:
        super().__init__()
        self.rdb1 = ResidualDenseBlock(num_feat, num_grow_ch)
        self.rdb2 = ResidualDenseBlock(num_feat, num_grow_ch)
        self.rdb3 = ResidualDenseBlock(num_feat, num_grow_ch)

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


@NETWORKS.register("rrdbnet")
class RRDBNet(Network):
    """Map `lq` (B, num_in_ch, h, w) to `sr` (B, num_out_ch, h·scale, w·scale) by RRDBNet.

    Args:
        scale: 1, 2, 3, 4 or 8, as far as `upsampling` has it.
        num_in_ch: channels of `lq`.
        num_out_ch: channels of `sr`.
        num_feat: channels between blocks.
        num_grow_ch: channels that each dense convolution adds.
        num_block: residual in residual dense blocks: 23 in all published systems, 6 in the anime model.
        upsampling: how a scale is reached. At scale 4 the forms are the same.
            `unshuffle` (BasicSR, Real-ESRGAN x2plus): pixels to channels by 2 at scale 2 and by 4 at scale 1, then
            always x4. Faster, since the blocks see a smaller image; input sides must be multiples of that factor.
            `steps` (KAIR, BSRGAN x2): the blocks see the input's size, then log2(scale) steps of x2; none at scale 1,
            one x3 step at scale 3. Quirk: the released code silently gives x2 for scales 1 and 3; ours does not.
            `auto`: unshuffle at scales 1 and 2, else steps.

    Raises:
        ValueError: if `upsampling` does not have this scale.

    >>> small = {"num_feat": 8, "num_block": 1, "num_grow_ch": 4}
    >>> NETWORKS.build({"type": "rrdbnet", "scale": 4, **small})(torch.rand(1, 3, 16, 24)).shape
    torch.Size([1, 3, 64, 96])
    """

    recomputable = ("body",)

    def __init__(
        self,
        scale: PositiveInt,
        num_in_ch: PositiveInt = 3,
        num_out_ch: PositiveInt = 3,
        num_feat: PositiveInt = 64,
        num_block: PositiveInt = 23,
        num_grow_ch: PositiveInt = 32,
        upsampling: Literal["auto", "unshuffle", "steps"] = "auto",
    ) -> None:
        super().__init__()
        if upsampling == "auto":
            upsampling = "unshuffle" if scale in (1, 2) else "steps"
        known = UNSHUFFLE_FACTOR if upsampling == "unshuffle" else STEP_FACTORS
        if scale not in known:
            raise ValueError(f"scale {scale} is unknown with upsampling {upsampling!r}, expected one of {list(known)}")
        self.scale = scale
        self.size_multiple = UNSHUFFLE_FACTOR[scale] if upsampling == "unshuffle" else 1
        self.step_factors = STEP_FACTORS[4 if upsampling == "unshuffle" else scale]

        self.conv_first = nn.Conv2d(num_in_ch * self.size_multiple**2, num_feat, 3, padding=1)
        self.body = nn.Sequential(*[RRDB(num_feat, num_grow_ch) for _ in range(num_block)])
        self.conv_body = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        for number, _ in enumerate(self.step_factors, start=1):
            self.add_module(f"conv_up{number}", nn.Conv2d(num_feat, num_feat, 3, padding=1))
        self.conv_hr = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, padding=1)

    def forward(self, lq: Tensor) -> Tensor:
        """Restore `lq`. Raises ValueError if its sides are not multiples of `size_multiple`."""
        if self.size_multiple > 1:
            require_multiple(lq, self.size_multiple, f"rrdbnet (scale {self.scale}, upsampling unshuffle)")
            lq = F.pixel_unshuffle(lq, self.size_multiple)
        features = self.conv_first(lq)
        features = features + self.conv_body(self.body(features))
        for number, factor in enumerate(self.step_factors, start=1):
            features = F.interpolate(features, scale_factor=factor, mode="nearest")
            features = _lrelu(self.get_submodule(f"conv_up{number}")(features))
        return self.conv_last(_lrelu(self.conv_hr(features)))


def _lrelu(x: Tensor) -> Tensor:
    # In place: every caller hands in the fresh output of a convolution, which its backward pass does not need.
    return F.leaky_relu(x, 0.2, inplace=True)
