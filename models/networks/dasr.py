"""DASR (Wang et al.: Unsupervised Degradation Representation Learning for Blind Super-Resolution, CVPR 2021).

An encoder, trained by contrast, says in 256 numbers how an image is degraded; from these, small perceptrons make the
filters and channel weights of the super-resolution network. Keys are those of the released code.

Released images are 0…255. The shift to that range lives inside, so that images are in [0, 1] as everywhere. Features
are therefore large: train and restore in fp32 or bf16, whose range is float32's; fp16 ends at 65504.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.network import NETWORKS
from models.networks.batch_norm import BATCH_NORMS, BatchStatistics
from models.networks.blocks import EncoderNetwork
from models.networks.rrdbnet import STEP_FACTORS
from utils.options.fields import PositiveInt

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)


class Encoder(nn.Module):
    """Map `lq` (B, 3, h, w) in [0, 1] of any size to (embedding, projection), each (B, dimension)."""

    def __init__(self, num_feat: int, batch_norm: BatchStatistics) -> None:
        super().__init__()
        self.dimension = 4 * num_feat
        layers: list[nn.Module] = []
        inputs = 3
        for outputs, stride in ((1, 1), (1, 1), (2, 2), (2, 1), (4, 2), (4, 1)):
            layers += [
                nn.Conv2d(inputs, outputs * num_feat, 3, stride, 1),
                BATCH_NORMS[batch_norm](outputs * num_feat),
                nn.LeakyReLU(0.1, inplace=True),
            ]
            inputs = outputs * num_feat
        self.E = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.mlp = perceptron(self.dimension)

    def forward(self, lq: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.E(255 * lq)
        return embedding, self.mlp(embedding)


def perceptron(dimension: int) -> nn.Sequential:
    """Return the head between embedding and projection."""
    return nn.Sequential(
        nn.Linear(dimension, dimension), nn.LeakyReLU(0.1, inplace=True), nn.Linear(dimension, dimension)
    )


class ChannelAttention(nn.Module):
    """Weight the channels of features (B, C, h, w) by a code of the degradation (B, C)."""

    def __init__(self, num_feat: int, reduction: int) -> None:
        super().__init__()
        hidden = max(num_feat // reduction, 1)
        self.conv_du = nn.Sequential(
            nn.Conv2d(num_feat, hidden, 1, bias=False),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(hidden, num_feat, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        return x * self.conv_du(code[:, :, None, None])


class DAConv(nn.Module):
    """Convolve with a 3x3 filter per sample and channel made from the code, and add channel attention by the code."""

    def __init__(self, num_feat: int, reduction: int = 8) -> None:
        super().__init__()
        self.kernel = nn.Sequential(
            nn.Linear(num_feat, num_feat, bias=False),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Linear(num_feat, 9 * num_feat, bias=False),
        )
        self.conv = nn.Conv2d(num_feat, num_feat, 1)
        self.ca = ChannelAttention(num_feat, reduction)

    def codes(self, x: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
        """Return the codes that filters and channel weights are made from."""
        return code, code

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        """Map features (B, C, h, w) and a code (B, C) to features."""
        batch, channels, height, width = x.shape
        filter_code, attention_code = self.codes(x, code)
        filters = self.kernel(filter_code).view(-1, 1, 3, 3)
        if torch.compiler.is_exporting():  # programs such as ONNX know no number of groups that is the batch's
            filtered = _filtered_by_shifts(x, filters.view(batch, channels, 9))
        else:
            filtered = F.conv2d(x.reshape(1, -1, height, width), filters, padding=1, groups=batch * channels)
        filtered = F.leaky_relu(filtered.view(batch, channels, height, width), 0.1)
        return self.conv(filtered) + self.ca(x, attention_code)


def _filtered_by_shifts(x: Tensor, filters: Tensor) -> Tensor:
    """Correlate each channel of (B, C, h, w) with a 3x3 filter of its own, (B, C, 9) row by row, around zeros."""
    height, width = x.shape[-2:]
    padded = F.pad(x, (1, 1, 1, 1))
    shifts = [padded[..., dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)]
    return sum((shift * filters[..., i, None, None] for i, shift in enumerate(shifts)), torch.zeros_like(x))


class DABlock(nn.Module):
    """Apply two degradation-aware convolutions, each before an ordinary one; the result is added to the input."""

    def __init__(self, num_feat: int, aware: Callable[[int], DAConv] = DAConv) -> None:
        super().__init__()
        self.da_conv1 = aware(num_feat)
        self.da_conv2 = aware(num_feat)
        self.conv1 = nn.Conv2d(num_feat, num_feat, 3, padding=1)
        self.conv2 = nn.Conv2d(num_feat, num_feat, 3, padding=1)

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        y = F.leaky_relu(self.da_conv1(x, code), 0.1)
        y = F.leaky_relu(self.conv1(y), 0.1)
        y = F.leaky_relu(self.da_conv2(y, code), 0.1)
        return x + self.conv2(y)


class DAGroup(nn.Module):
    """Apply blocks in a chain."""

    def __init__(self, num_feat: int, num_block: int) -> None:
        super().__init__()
        self.body = _chain(num_feat, [DABlock(num_feat) for _ in range(num_block)])

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        return _run(self.body, x, code)


def _chain(num_feat: int, parts: Sequence[nn.Module]) -> nn.ModuleList:
    """Chain parts that take features and a code, and a convolution."""
    return nn.ModuleList([*parts, nn.Conv2d(num_feat, num_feat, 3, padding=1)])


def _run(chain: nn.ModuleList, x: Tensor, code: Tensor) -> Tensor:
    """Apply the chain; its output is added to its input."""
    y = x
    for part in chain[:-1]:
        y = part(y, code)
    return x + chain[-1](y)


class MeanShift(nn.Module):
    """Add `sign` times DIV2K's mean colour to images (B, 3, h, w) in 0…255.

    Released as a frozen 1x1 convolution, whose weight is diagonal. Here these are buffers, so that nothing trains them,
    and elementwise, so that no half precision rounds the image.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, sign: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.eye(3)[:, :, None, None])
        self.register_buffer("bias", sign * 255 * torch.tensor(DIV2K_MEAN))

    def forward(self, image: Tensor) -> Tensor:
        gain = self.weight.flatten(1).diagonal()
        return image * gain[:, None, None] + self.bias[:, None, None]


class DASRGenerator(nn.Module):
    """Map `lq` (B, 3, h, w) in [0, 1] and an embedding (B, dimension) to `sr`."""

    def __init__(self, scale: int, num_feat: int, num_group: int, num_block: int, dimension: int) -> None:
        super().__init__()
        self.sub_mean = MeanShift(-1)
        self.head = nn.Sequential(nn.Conv2d(3, num_feat, 3, padding=1))
        self.compress = nn.Sequential(nn.Linear(dimension, num_feat, bias=False), nn.LeakyReLU(0.1, inplace=True))
        self.body = _chain(num_feat, [DAGroup(num_feat, num_block) for _ in range(num_group)])
        steps: list[nn.Module] = []
        for factor in STEP_FACTORS[scale]:
            steps += [nn.Conv2d(num_feat, num_feat * factor**2, 3, padding=1), nn.PixelShuffle(factor)]
        self.tail = nn.Sequential(nn.Sequential(*steps), nn.Conv2d(num_feat, 3, 3, padding=1))
        self.add_mean = MeanShift(1)

    def forward(self, lq: Tensor, embedding: Tensor) -> Tensor:
        features = _run(self.body, self.head(self.sub_mean(255 * lq)), self.compress(embedding))
        return self.add_mean(self.tail(features)) / 255


@NETWORKS.register("dasr")
class DASR(EncoderNetwork):
    """Map `lq` (B, 3, h, w), RGB in [0, 1], of any size, to `sr` (B, 3, h·scale, w·scale) by DASR.

    Args:
        scale: a power of two up to 8, or 3; released for 2, 3 and 4.
        num_feat: channels of the super-resolution network.
        num_group: groups of blocks.
        num_block: blocks a group.
        encoder_feat: channels of the encoder's first convolutions; the embedding has four times as many numbers.
        batch_norm: whether the encoder's statistics are each process's own (`local`) or those of the whole batch
            (`global`).
        fixed_embedding: for an ablation, a number in place of all that the encoder says. 0 also silences the filters
            that are made from it, which have no biases; 1 leaves them as ordinary ones.

    Raises:
        ValueError: for another scale.

    >>> small = {"num_feat": 8, "num_group": 1, "num_block": 1, "encoder_feat": 4}
    >>> NETWORKS.build({"type": "dasr", "scale": 4, **small})(torch.rand(2, 3, 16, 24)).shape
    torch.Size([2, 3, 64, 96])
    """

    recomputable = ("G.body",)

    def __init__(
        self,
        scale: PositiveInt,
        num_feat: PositiveInt = 64,
        num_group: PositiveInt = 5,
        num_block: PositiveInt = 5,
        encoder_feat: PositiveInt = 64,
        batch_norm: BatchStatistics = "local",
        fixed_embedding: float | None = None,
    ) -> None:
        if scale not in STEP_FACTORS:
            raise ValueError(f"scale {scale} is unknown, expected one of {list(STEP_FACTORS)}")
        encoder = Encoder(encoder_feat, batch_norm)
        generator = DASRGenerator(scale, num_feat, num_group, num_block, encoder.dimension)
        super().__init__(scale, encoder, generator, fixed_embedding)
