"""The U-Net discriminator with spectral normalisation of Real-ESRGAN (Wang et al. 2021, figure 6) and BSRGAN.

It judges every pixel: the logits have the image's size. Keys are BasicSR's, and KAIR's are the same.
"""

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import spectral_norm

from models.network import NETWORKS, Network
from models.networks.blocks import require_multiple
from utils.options.fields import PositiveInt


@NETWORKS.register("unet_sn")
class UNetDiscriminatorSN(Network):
    """Judge each pixel of an image (B, num_in_ch, H, W), sides multiples of 8, by logits (B, 1, H, W).

    Each forward pass in training mode moves the stored singular vectors by one power iteration; evaluation mode
    leaves them as they are.

    Args:
        num_in_ch: channels of the image.
        num_feat: channels at full size; they double with every halving of the size, up to 8 times.
        skip_connection: whether the decoder adds the encoder's features (after the activation), as all published
            systems do.

    >>> import torch
    >>> NETWORKS.build({"type": "unet_sn", "num_feat": 4})(torch.rand(2, 3, 32, 48)).shape
    torch.Size([2, 1, 32, 48])
    """

    role = "discriminator"
    size_multiple = 8

    def __init__(self, num_in_ch: PositiveInt = 3, num_feat: PositiveInt = 64, skip_connection: bool = True) -> None:
        super().__init__()
        f = num_feat
        self.skip_connection = skip_connection
        self.conv0 = nn.Conv2d(num_in_ch, f, 3, padding=1)
        self.conv1 = _halving(f, 2 * f)
        self.conv2 = _halving(2 * f, 4 * f)
        self.conv3 = _halving(4 * f, 8 * f)
        self.conv4 = _keeping(8 * f, 4 * f)
        self.conv5 = _keeping(4 * f, 2 * f)
        self.conv6 = _keeping(2 * f, f)
        self.conv7 = _keeping(f, f)
        self.conv8 = _keeping(f, f)
        self.conv9 = nn.Conv2d(f, 1, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits per pixel. Raises ValueError if a side is not a multiple of 8."""
        require_multiple(image, self.size_multiple, "unet_sn")
        x0 = _lrelu(self.conv0(image))
        x1 = _lrelu(self.conv1(x0))
        x2 = _lrelu(self.conv2(x1))
        x3 = _lrelu(self.conv3(x2))

        x = self._joined(_lrelu(self.conv4(_double(x3))), x2)
        x = self._joined(_lrelu(self.conv5(_double(x))), x1)
        x = self._joined(_lrelu(self.conv6(_double(x))), x0)

        x = _lrelu(self.conv8(_lrelu(self.conv7(x))))
        return self.conv9(x)

    def _joined(self, decoded: Tensor, encoded: Tensor) -> Tensor:
        return decoded + encoded if self.skip_connection else decoded


def _halving(inputs: int, outputs: int) -> nn.Module:
    return spectral_norm(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False))


def _keeping(inputs: int, outputs: int) -> nn.Module:
    return spectral_norm(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _lrelu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)
