"""The VGG-style discriminator of SRGAN (Ledig et al. 2017, figure 4) and ESRGAN: one logit for an image of fixed size.

One class covers the published forms, whose differences are options:

| released class                                            | options                                                |
|-----------------------------------------------------------|--------------------------------------------------------|
| BasicSR VGGStyleDiscriminator, RealSR Discriminator_VGG_128 | defaults, input_size 128 or 256                      |
| KAIR Discriminator_VGG_96, _128, _192                     | bias, no first_activation, momentum 0.9, eps 1e-4      |
| KAIR Discriminator_VGG_128_SN                             | norm spectral, bias                                    |

Keys are BasicSR's (`conv0_0`, `bn0_1`, `linear1`); KAIR's are renamed by `models.weights`.
"""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from models.network import NETWORKS, Network
from models.networks.batch_norm import BATCH_NORMS, BatchStatistics
from utils.options.fields import Positive, PositiveInt, Prob

LEVELS = {96: 5, 128: 5, 192: 6, 256: 6}


@NETWORKS.register("vgg_disc")
class VGGDiscriminator(Network):
    """Judge an image (B, num_in_ch, input_size, input_size) by logits (B, 1).

    Each level is a 3x3 convolution and a 4x4 one of stride 2; the first convolution has no norm.

    Args:
        num_in_ch: channels of the image.
        num_feat: channels of the first level; they double per level, up to 8 times.
        input_size: side of the images in pixels.
        norm: `batch`, or `spectral` on all convolutions and linear layers instead.
        bias: whether the convolutions after the first have biases.
        first_activation: whether a LeakyReLU follows the first convolution. Quirk: KAIR's batch-norm forms lack it,
            so their first two convolutions are one linear map.
        momentum: share of the new batch in the running statistics. Quirk: KAIR writes 0.9, which in PyTorch keeps
            little of the past.
        eps: of the batch normalisation.
        batch_norm: whether its statistics are each process's own (`local`) or those of the whole batch (`global`).

    >>> import torch
    >>> NETWORKS.build({"type": "vgg_disc", "num_feat": 4, "input_size": 96})(torch.rand(2, 3, 96, 96)).shape
    torch.Size([2, 1])
    """

    role = "discriminator"

    def __init__(
        self,
        num_in_ch: PositiveInt = 3,
        num_feat: PositiveInt = 64,
        input_size: Literal[96, 128, 192, 256] = 128,
        norm: Literal["batch", "spectral"] = "batch",
        bias: bool = False,
        first_activation: bool = True,
        momentum: Prob = 0.1,
        eps: Positive = 1e-5,
        batch_norm: BatchStatistics = "local",
    ) -> None:
        super().__init__()
        self.input_size = self.size_multiple = input_size
        self.levels = LEVELS[input_size]
        self.first_activation = first_activation
        normalise = BATCH_NORMS[batch_norm]
        constrain = spectral_norm if norm == "spectral" else _unchanged
        width = num_in_ch
        for level in range(self.levels):
            outputs = num_feat * min(2**level, 8)
            first, second = f"{level}_0", f"{level}_1"
            narrow = nn.Conv2d(width, outputs, 3, padding=1, bias=bias or level == 0)
            halving = nn.Conv2d(outputs, outputs, 4, stride=2, padding=1, bias=bias)
            self.add_module(f"conv{first}", constrain(narrow))
            self.add_module(f"conv{second}", constrain(halving))
            if norm == "batch":
                if level > 0:
                    self.add_module(f"bn{first}", normalise(outputs, eps=eps, momentum=momentum))
                self.add_module(f"bn{second}", normalise(outputs, eps=eps, momentum=momentum))
            width = outputs
        side = input_size // 2**self.levels
        self.linear1 = constrain(nn.Linear(width * side**2, 100))
        self.linear2 = constrain(nn.Linear(100, 1))

    def forward(self, image: Tensor) -> Tensor:
        """Return one logit per image. Raises ValueError unless the image has the side `input_size`."""
        if image.shape[-2:] != (self.input_size, self.input_size):
            height, width = image.shape[-2:]
            raise ValueError(
                f"vgg_disc: found an image of {height}x{width} (height x width), expected {self.input_size}x"
                f"{self.input_size}; set its input_size to the crop size"
            )
        x = image
        for level in range(self.levels):
            for part in (0, 1):
                x = self.get_submodule(f"conv{level}_{part}")(x)
                if hasattr(self, f"bn{level}_{part}"):
                    x = self.get_submodule(f"bn{level}_{part}")(x)
                if self.first_activation or (level, part) != (0, 0):
                    x = F.leaky_relu(x, 0.2)
        return self.linear2(F.leaky_relu(self.linear1(x.flatten(1)), 0.2))


def _unchanged(layer: nn.Module) -> nn.Module:
    return layer
