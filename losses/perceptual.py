"""Perceptual and style loss on features of VGG."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from losses import LOSSES, Loss
from losses.backbones import backbone_state, constant, fill
from utils.options.fields import NonNegative

Layer = Literal[
    "conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3", "conv3_4",
    "conv4_1", "conv4_2", "conv4_3", "conv4_4", "conv5_1", "conv5_2", "conv5_3", "conv5_4",
]  # fmt: skip
Criterion = Literal["l1", "l2", "fro"]

Vgg = Literal["vgg19", "vgg16"]
_CONVOLUTIONS = {"vgg19": (2, 2, 4, 4, 4), "vgg16": (2, 2, 3, 3, 3)}  # of each block; max-pooling stands between blocks
DEFAULT_LAYERS: Mapping[str, float] = MappingProxyType(
    {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}
)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@LOSSES.register("perceptual")
class PerceptualLoss(Loss):
    """Compare VGG features before their ReLU (Johnson et al., ECCV 2016, in ESRGAN's form), as BasicSR and KAIR.

    The network is frozen: its weights are neither parameters nor part of any state. It ends at the last used layer.
    Images are RGB (B, 3, H, W), or gray, with sides from 16 up.

    Args:
        layers: weight of each used convolution, conv1_1 to conv5_4; by default conv1_2 and conv2_2 0.1, conv3_4,
            conv4_4 and conv5_4 1.
        criterion: mean absolute difference (`l1`), mean squared difference (`l2`), or Frobenius norm of the batch's
            difference (`fro`).
        style_weight: weight of the style part, the same distance between Gram matrices; 0 leaves it out.
        input_norm: normalise images by ImageNet's mean and deviation first.
        range_norm: map images from [-1, 1] to [0, 1] before that.
        weights: a file with torchvision's weights of the network; without it torchvision's own copy is used or
            downloaded.
        network: VGG19, or VGG16, which has no fourth convolution in its blocks.
        after_relu: take features after their ReLU instead (Johnson et al.).

    Raises:
        ValueError: for layers without a weight above 0.
        OptionError: when no weights can be had; it says which file to put where.
    """

    def __init__(
        self,
        layers: dict[Layer, NonNegative] | None = None,
        criterion: Criterion = "l1",
        style_weight: NonNegative = 0.0,
        input_norm: bool = True,
        range_norm: bool = False,
        weights: str | None = None,
        network: Vgg = "vgg19",
        after_relu: bool = False,
    ) -> None:
        super().__init__()
        chosen = DEFAULT_LAYERS if layers is None else layers
        self.layers: dict[str, float] = {name: weight for name, weight in chosen.items() if weight > 0}
        if not self.layers:
            raise ValueError("layers: no layer has a weight above 0")
        self.criterion: Criterion = criterion
        self.style_weight, self.input_norm, self.range_norm = style_weight, input_norm, range_norm
        self.vgg, self._outputs = _vgg(list(self.layers), weights, network, after_relu)
        for name, values in (("mean", _IMAGENET_MEAN), ("std", _IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, sr: Tensor, target: Tensor, **extras: Tensor) -> Tensor:
        of_sr = self.features(sr)
        with torch.no_grad():
            of_target = self.features(target)
        total = sr.new_zeros(())
        for name, weight in self.layers.items():
            ours, wanted = of_sr[name], of_target[name]
            total = total + weight * self._distance(ours, wanted)
            if self.style_weight > 0:
                total = total + self.style_weight * weight * self._distance(_gram(ours), _gram(wanted))
        return total

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Return the outputs (B, C, h, w) of the used layers, before their ReLU, for RGB or gray images."""
        x = images.expand(-1, 3, -1, -1)
        x = (x + 1) / 2 if self.range_norm else x
        if self.input_norm:
            x = (x - self.get_buffer("mean")) / self.get_buffer("std")
        outputs = {}
        for number, layer in enumerate(self.vgg):
            x = layer(x)
            if number in self._outputs:
                outputs[self._outputs[number]] = x
        return outputs

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        if self.criterion == "fro":
            return torch.linalg.vector_norm(a - b)
        return F.l1_loss(a, b) if self.criterion == "l1" else F.mse_loss(a, b)


def _gram(features: Tensor) -> Tensor:
    """Return Gram matrices (B, C, C) over (B, C, h, w), divided by C·h·w."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])


def convolutions(network: Vgg) -> dict[str, int]:
    """Return the number of each convolution in torchvision's `features`, by its name, in order."""
    numbers, number = {}, 0
    for block, count in enumerate(_CONVOLUTIONS[network], 1):
        for i in range(1, count + 1):
            numbers[f"conv{block}_{i}"] = number
            number += 2  # the convolution and its ReLU
        number += 1  # the pooling
    return numbers


def _vgg(
    layers: Sequence[str], weights: str | None, network: Vgg, after_relu: bool
) -> tuple[nn.Sequential, dict[int, str]]:
    """Return torchvision's network up to the last of these layers, and which of its modules are they by number."""
    numbers = convolutions(network)
    if unknown := [name for name in layers if name not in numbers]:
        raise ValueError(f"layers: found {', '.join(unknown)}, which {network} has not; name others by `layers`")
    from torchvision import models  # slow to import, and needed nowhere else

    with torch.device("meta"):
        vgg = getattr(models, network)().features
    outputs = {numbers[name] + after_relu: name for name in layers}
    vgg, state = vgg[: max(outputs) + 1], backbone_state(weights, network)
    fill(vgg, {key: f"features.{key}" for key in vgg.state_dict()}, state, weights, network)
    for module in vgg:
        if isinstance(module, nn.ReLU):
            module.inplace = False  # it would write over the features that are wanted
    constant(vgg)  # so that no checkpoint carries its 80 MB
    return vgg, outputs
