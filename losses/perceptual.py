"""Perceptual and style loss on features of VGG19."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from losses import LOSSES, Loss
from utils.options.fields import NonNegative, OptionError

Layer = Literal[
    "conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3", "conv3_4",
    "conv4_1", "conv4_2", "conv4_3", "conv4_4", "conv5_1", "conv5_2", "conv5_3", "conv5_4",
]  # fmt: skip
Criterion = Literal["l1", "l2", "fro"]

WEIGHTS_FILE = "vgg19-dcbb9e9d.pth"
DEFAULT_LAYERS: Mapping[str, float] = MappingProxyType(
    {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}
)
_CONVOLUTIONS = (2, 2, 4, 4, 4)  # of each block; a max-pooling stands between blocks
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@LOSSES.register("perceptual")
class PerceptualLoss(Loss):
    """Distance of VGG19 features before their ReLU (Johnson et al. 2016 in ESRGAN's form), as BasicSR and KAIR.

    The network is frozen: its weights are neither parameters nor part of any state. It ends at the last used layer.

    Args:
        layers: weight of each used layer; by default conv1_2 and conv2_2 0.1, conv3_4, conv4_4 and conv5_4 1.
        criterion: mean absolute difference, mean squared difference, or Frobenius norm of the batch's difference.
        style_weight: weight of the style part, the same distance between Gram matrices; 0 leaves it out.
        input_norm: normalise images by ImageNet's mean and deviation first.
        range_norm: map images from [-1, 1] to [0, 1] before that.
        weights: a file with torchvision's VGG19 weights; without it torchvision's own copy is used or downloaded.

    Raises:
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
    ) -> None:
        super().__init__()
        chosen = DEFAULT_LAYERS if layers is None else layers
        self.layers: dict[str, float] = {name: weight for name, weight in chosen.items() if weight > 0}
        if not self.layers:
            raise ValueError("layers: no layer has a weight above 0")
        self.criterion: Criterion = criterion
        self.style_weight, self.input_norm, self.range_norm = style_weight, input_norm, range_norm
        self._convolutions = _needed_convolutions(self.layers)
        state = _load_weights(weights)
        for name, index in self._convolutions.items():
            # Buffers rather than parameters: no optimizer can find them and no checkpoint carries their 80 MB.
            for part in ("weight", "bias"):
                key = f"features.{index}.{part}"
                if key not in state:
                    raise OptionError(f"{weights}: has no {key}, expected torchvision's VGG19 ({WEIGHTS_FILE})")
                self.register_buffer(f"{name}_{part}", state[key].float(), persistent=False)
        for name, values in (("mean", _IMAGENET_MEAN), ("std", _IMAGENET_STD)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, sr: Tensor, target: Tensor, **extras: Tensor) -> Tensor:
        found = self.features(sr)
        with torch.no_grad():
            wanted = self.features(target)
        total = sr.new_zeros(())
        for name, weight in self.layers.items():
            total = total + weight * self._distance(found[name], wanted[name])
            if self.style_weight > 0:
                total = total + self.style_weight * weight * self._distance(_gram(found[name]), _gram(wanted[name]))
        return total

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """Outputs (B, C, h, w) of the used layers, before their ReLU, for RGB images (B, 3, H, W), sides >= 16."""
        x = (images + 1) / 2 if self.range_norm else images
        if self.input_norm:
            x = (x - self.get_buffer("mean")) / self.get_buffer("std")
        kept = {}
        for name in self._convolutions:
            if name.endswith("_1") and name != "conv1_1":
                x = F.max_pool2d(x, 2)
            x = F.conv2d(x, self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias"), padding=1)
            if name in self.layers:
                kept[name] = x
            x = F.relu(x)
        return kept

    def _distance(self, a: Tensor, b: Tensor) -> Tensor:
        if self.criterion == "fro":
            return torch.linalg.vector_norm(a - b)
        return F.l1_loss(a, b) if self.criterion == "l1" else F.mse_loss(a, b)


def _gram(features: Tensor) -> Tensor:
    """Gram matrices (B, C, C) over (B, C, h, w), divided by C·h·w."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / (flat.shape[1] * flat.shape[2])


def _needed_convolutions(layers: Mapping[str, float]) -> dict[str, int]:
    """Convolutions up to the last used one, with their numbers in torchvision's `features`."""
    numbers, number = {}, 0
    for block, count in enumerate(_CONVOLUTIONS, 1):
        for i in range(1, count + 1):
            numbers[f"conv{block}_{i}"] = number
            number += 2  # the convolution and its ReLU
        number += 1  # the pooling
    last = max(numbers[name] for name in layers)
    return {name: number for name, number in numbers.items() if number <= last}


def _load_weights(path: str | None) -> dict[str, Tensor]:
    if path is not None:
        if not Path(path).is_file():
            raise OptionError(f"weights: there is no file {path}, expected torchvision's VGG19 ({WEIGHTS_FILE})")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
            raise OptionError(f"weights: {path} cannot be read as PyTorch weights ({error})") from error
    from torchvision.models import VGG19_Weights  # slow to import, and needed nowhere else

    weights = VGG19_Weights.IMAGENET1K_V1
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        return dict(weights.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise OptionError(
            f"the VGG19 weights could not be downloaded ({error}); fetch {weights.url} elsewhere and put it into "
            f"{folder}, or name the file under `weights:`"
        ) from error
