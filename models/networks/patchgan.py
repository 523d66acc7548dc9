"""PatchGAN, the discriminator of pix2pix (Isola et al. 2017, section 3.2.2): a logit for every patch.

One class covers the two published forms: `NLayerDiscriminator` of pix2pix and RealSR (norm batch, padding 1, no bias
before a norm; the defaults), and KAIR's (norm spectral, padding 2, bias true, max_feat 512). Keys are
NLayer's `model.N`; KAIR's are renamed by `models.weights`.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from models.network import NETWORKS, Network
from models.networks.batch_norm import BATCH_NORMS, BatchStatistics
from utils.options.fields import PositiveInt

KERNEL_SIZE = 4


@NETWORKS.register("patchgan")
class PatchGAN(Network):
    """Judge patches of an image (B, num_in_ch, H, W) by logits (B, 1, h, w); for 3 layers h is about H / 8.

    Args:
        num_in_ch: channels of the image.
        num_feat: channels of the first convolution; they double per layer.
        n_layers: convolutions of stride 2.
        max_feat: where the doubling ends; default 8 times num_feat.
        norm: of the convolutions between the first and the last; a name with `spectral` also puts spectral
            normalisation on all convolutions, first and last included. Instance normalisation has no weights.
        padding: of every convolution.
        bias: whether the convolutions between the first and the last have biases.
        batch_norm: whether its statistics are each process's own (`local`) or those of the whole batch (`global`).

    >>> import torch
    >>> NETWORKS.build({"type": "patchgan", "num_feat": 4})(torch.rand(2, 3, 64, 64)).shape
    torch.Size([2, 1, 6, 6])
    """

    role = "discriminator"

    def __init__(
        self,
        num_in_ch: PositiveInt = 3,
        num_feat: PositiveInt = 64,
        n_layers: PositiveInt = 3,
        norm: Literal["batch", "instance", "spectral", "batchspectral", "instancespectral", "none"] = "batch",
        padding: Literal[1, 2] = 1,
        bias: bool = False,
        max_feat: PositiveInt | None = None,
        batch_norm: BatchStatistics = "local",
    ) -> None:
        super().__init__()
        most = 8 * num_feat if max_feat is None else max_feat
        widths = [min(num_feat * 2**level, most) for level in range(n_layers + 1)]
        strides = [2] * n_layers + [1]
        layers: list[nn.Module] = []
        previous = num_in_ch
        for level, (width, stride) in enumerate(zip(widths, strides, strict=True)):
            convolution = nn.Conv2d(previous, width, KERNEL_SIZE, stride, padding, bias=bias or level == 0)
            layers.append(_spectral(convolution, norm))
            if level > 0:
                layers.append(_normalisation(norm, width, batch_norm))
            layers.append(nn.LeakyReLU(0.2, inplace=True))
            previous = width
        layers.append(_spectral(nn.Conv2d(previous, 1, KERNEL_SIZE, 1, padding), norm))
        self.model = nn.Sequential(*layers)
        self.smallest_side = _smallest_side(strides, padding)

    def forward(self, image: Tensor) -> Tensor:
        """Return the map of logits. Raises ValueError if the image is too small for one."""
        height, width = image.shape[-2:]
        if min(height, width) < self.smallest_side:
            raise ValueError(
                f"patchgan: found an image of {height}x{width} (height x width), expected sides of at least "
                f"{self.smallest_side}; use larger crops or fewer n_layers"
            )
        return self.model(image)


def _spectral(layer: nn.Module, norm: str) -> nn.Module:
    return spectral_norm(layer) if norm.endswith("spectral") else layer


def _normalisation(norm: str, channels: int, statistics: BatchStatistics) -> nn.Module:
    if norm.startswith("batch"):
        return BATCH_NORMS[statistics](channels)
    if norm.startswith("instance"):
        return nn.InstanceNorm2d(channels)
    # Keeps the numbering of the keys the same for every norm.
    return nn.Identity()


def _smallest_side(strides: list[int], padding: int) -> int:
    """Return the smallest image side that leaves two values a side before every convolution.

    One value could still be convolved with padding 2, but instance normalisation has nothing to normalise there.
    """
    side = 2
    for stride in reversed(strides):
        side = max(2, (side - 1) * stride + KERNEL_SIZE - 2 * padding)
    return side
