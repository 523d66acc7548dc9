"""CDSR (Zhou et al.: Joint Learning Content and Degradation Aware Feature for Blind Super-Resolution, ACM MM 2022).

DASR's idea with an encoder that also looks at content: it sees pixels and patches, and gives its embedding as a mixture
of codebook rows. Features ask for the degradation they need, by attention between channels. Keys are those of the
released code; images are in [0, 1] there too.
"""

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.network import NETWORKS
from models.networks.batch_norm import BATCH_NORMS, BatchStatistics
from models.networks.blocks import EncoderNetwork, mirrored
from models.networks.dasr import DABlock, DAConv, perceptron
from models.networks.rrdbnet import ResidualDenseBlock
from utils.options.fields import PositiveInt

PATCH = 12
Attend = Literal["released", "paper"]
Pixels = Literal["image", "detail", "relative_detail"]
HALF_LEVEL = 0.5 / 255


class ConvUnit(nn.Module):
    """Apply a convolution, batch normalisation and LeakyReLU."""

    def __init__(
        self, inputs: int, outputs: int, size: int, batch_norm: BatchStatistics, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, size, stride, padding)
        self.bn1 = BATCH_NORMS[batch_norm](outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.bn1(self.conv1(x)), 0.1)


class PatchEncoder(nn.Module):
    """Map `lq` (B, 3, h, w) in [0, 1] of any size to (embedding, projection), each (B, dimension).

    The patch branch (LPE) sees whole tiles of 12 px, counted from the top left: what remains at the right and the
    bottom it ignores, as released; an image below 12 px is mirrored there up to one tile, where released code fails.
    """

    def __init__(self, num_feat: int, num_code: int, batch_norm: BatchStatistics, pixels: Pixels = "image") -> None:
        super().__init__()
        half, full = 2 * num_feat, 4 * num_feat
        self.dimension, self.pixels = full, pixels
        self.conv1 = ConvUnit(3, num_feat, 7, batch_norm, padding=3)
        self.conv2 = ConvUnit(num_feat, num_feat, 1, batch_norm)
        self.conv3 = ConvUnit(num_feat, half, 3, batch_norm, stride=2, padding=1)
        self.conv4 = ConvUnit(half, half, 1, batch_norm)
        self.conv5 = ConvUnit(half, full, 7, batch_norm, padding=3)
        self.conv6 = ConvUnit(full, full, 1, batch_norm)
        self.pconv1 = ConvUnit(3, num_feat, PATCH, batch_norm, stride=PATCH)
        self.pconv2 = ConvUnit(num_feat, num_feat, 3, batch_norm, padding=1)
        self.pconv3 = ConvUnit(num_feat, half, 3, batch_norm, padding=1)
        self.pconv4 = ConvUnit(half, full, 3, batch_norm, padding=1)
        self.mlp1 = nn.Sequential(nn.Linear(2 * full, full), nn.LeakyReLU(0.1, inplace=True), nn.Linear(full, full))
        self.feature_bank = nn.Embedding(num_code, full)
        self.fc_q = nn.Linear(full, full)
        self.fc_k = nn.Linear(full, full)
        self.mlp = perceptron(full)

    def forward(self, lq: Tensor) -> tuple[Tensor, Tensor]:
        height, width = lq.shape[-2:]
        pixels, patches = self.given(lq)
        patches = mirrored(patches, max(PATCH - height, 0), max(PATCH - width, 0))
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5, self.conv6):
            pixels = layer(pixels)
        for layer in (self.pconv1, self.pconv2, self.pconv3, self.pconv4):
            patches = layer(patches)
        seen = torch.cat((pixels.mean((2, 3)), patches.mean((2, 3))), 1)
        embedding = self.code_weights(self.mlp1(seen)) @ self.feature_bank.weight
        return embedding, self.mlp(embedding)

    def given(self, lq: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the branches of pixels and of patches are given of images (B, 3, h, w), as large."""
        if self.pixels == "image":
            return lq, lq
        detail = lq - F.avg_pool2d(lq, 3, 1, 1, count_include_pad=False)
        if self.pixels == "detail":
            return detail, lq
        # The half level keeps an image of one colour at nought.
        relative = detail / detail.square().mean((1, 2, 3), keepdim=True).add(HALF_LEVEL**2).sqrt()
        return relative, relative

    def code_weights(self, seen: Tensor) -> Tensor:
        """Return the share (B, num_code) of each codebook row in the embedding (CSC), from features (B, dimension)."""
        keys = self.fc_k(self.feature_bank.weight)
        return (self.fc_q(seen) @ keys.T).softmax(1)


class ChannelCrossAttention(nn.Module):
    """Attend from the channels of features to those of a code; the result times `gamma` (at first 0) is added to it."""

    def __init__(self, num_feat: int) -> None:
        super().__init__()
        self.query_conv = nn.Linear(num_feat, num_feat)
        self.key_conv = nn.Linear(num_feat, num_feat)
        self.value_conv = nn.Linear(num_feat, num_feat)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, code: Tensor, pooled: Tensor) -> Tensor:
        """Map a code (B, C) and the features' means (B, C) to a code (B, C)."""
        energy = self.query_conv(pooled)[:, :, None] * self.key_conv(code)[:, None, :]
        attended = (energy.softmax(2) @ self.value_conv(code)[:, :, None])[:, :, 0]
        return self.gamma * attended + code


class DomainQueryConv(DAConv):
    """Apply DQA: a degradation-aware convolution whose code is first attended to by its features."""

    def __init__(self, num_feat: int, attend: Attend) -> None:
        super().__init__(num_feat, reduction=2)
        self.attend = attend
        self.sf_attn = ChannelCrossAttention(num_feat)

    def codes(self, x: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        attended = self.sf_attn(code, x.mean((2, 3)))
        return attended, code if self.attend == "released" else attended


class SFTLayer(nn.Module):
    """Make a code of its own from the shared one (B, dimension), and apply a block that is aware of it."""

    def __init__(self, num_feat: int, dimension: int, attend: Attend) -> None:
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(dimension, dimension), nn.PReLU(), nn.Linear(dimension, num_feat), nn.Sigmoid()
        )
        self.dab = DABlock(num_feat, partial(DomainQueryConv, attend=attend))

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        return self.dab(x, self.fc(code))


class RRDBSFT(nn.Module):
    """Apply an SFT layer and three residual dense blocks; the result, scaled by 0.2, is added to the input."""

    def __init__(self, num_feat: int, num_grow_ch: int, dimension: int, attend: Attend) -> None:
        super().__init__()
        self.SFT = SFTLayer(num_feat, dimension, attend)
        self.RDB1 = ResidualDenseBlock(num_feat, num_grow_ch)
        self.RDB2 = ResidualDenseBlock(num_feat, num_grow_ch)
        self.RDB3 = ResidualDenseBlock(num_feat, num_grow_ch)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        return x + 0.2 * self.RDB3(self.RDB2(self.RDB1(self.SFT(x, code))))


class CDSRGenerator(nn.Module):
    """Map `lq` (B, 3, h, w) in [0, 1] and an embedding (B, dimension) to `sr`."""

    def __init__(
        self, scale: int, num_feat: int, num_block: int, num_grow_ch: int, dimension: int, attend: Attend
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(4):
            layers += [nn.Linear(dimension, dimension), nn.PReLU()]
        self.compress = nn.Sequential(*layers)
        self.conv_first = nn.Conv2d(3, num_feat, 3, padding=1)
        self.RRDB_trunk = nn.ModuleList(RRDBSFT(num_feat, num_grow_ch, dimension, attend) for _ in range(num_block))
        self.trunk_conv = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.upsampler = nn.Sequential(nn.Conv2d(num_feat, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))

    def forward(self, lq: Tensor, embedding: Tensor) -> Tensor:
        code = self.compress(embedding)
        x = shallow = self.conv_first(lq)
        for block in self.RRDB_trunk:
            x = block(x, code)
        return self.upsampler(shallow + self.trunk_conv(x))


@NETWORKS.register("cdsr")
class CDSR(EncoderNetwork):
    """Map `lq` (B, 3, h, w), RGB in [0, 1], of any size, to `sr` (B, 3, h·scale, w·scale) by CDSR.

    Args:
        scale: any factor, in one step; released for 2, 3 and 4.
        num_feat: channels between blocks.
        num_block: blocks.
        num_grow_ch: channels that each dense convolution adds.
        encoder_feat: channels of the encoder's first convolutions; the embedding has four times as many numbers.
        num_code: rows of the codebook.
        attend: which code weights the channels: the block's own (`released`), or the one after attention (`paper`,
            as its figure of the DQA shows). They are the same at the start of training, where `gamma` is 0.
        pixels: what the encoder's first branch is given: the `image` (released), or its `detail`, what each pixel is
            above the mean of 3x3. Content is nearly all of an image, and noise and sharpness are most of its detail:
            short trainings learn degradations from this, and content or one row of the codebook from images.
            `relative_detail` gives both branches that over its root mean square in the image, which tells kernels best
            (tests/benchmarks/SCIENCE.md).
        batch_norm: whether the encoder's statistics are each process's own (`local`) or those of the whole batch
            (`global`).
        fixed_embedding: for an ablation, a number in place of all that the encoder says.

    >>> small = {"num_feat": 8, "num_block": 1, "num_grow_ch": 4, "encoder_feat": 4, "num_code": 8}
    >>> NETWORKS.build({"type": "cdsr", "scale": 4, **small})(torch.rand(2, 3, 16, 24)).shape
    torch.Size([2, 3, 64, 96])
    """

    recomputable = ("G.RRDB_trunk",)

    def __init__(
        self,
        scale: PositiveInt,
        num_feat: PositiveInt = 64,
        num_block: PositiveInt = 10,
        num_grow_ch: PositiveInt = 32,
        encoder_feat: PositiveInt = 64,
        num_code: PositiveInt = 1024,
        attend: Attend = "released",
        pixels: Pixels = "image",
        batch_norm: BatchStatistics = "local",
        fixed_embedding: float | None = None,
    ) -> None:
        encoder = PatchEncoder(encoder_feat, num_code, batch_norm, pixels)
        generator = CDSRGenerator(scale, num_feat, num_block, num_grow_ch, encoder.dimension, attend)
        super().__init__(scale, encoder, generator, fixed_embedding)
