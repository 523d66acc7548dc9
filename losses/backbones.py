"""Classifiers of torchvision by whose features losses compare images: their weights, and networks as constants."""

import pickle
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from torch import Tensor, nn

from utils.options.fields import OptionError
from utils.storage.files import looked_in

Backbone = Literal["vgg19", "vgg16", "alexnet"]
FILES = {"vgg19": "vgg19-dcbb9e9d.pth", "vgg16": "vgg16-397923af.pth", "alexnet": "alexnet-owt-7be5be79.pth"}


def backbone_state(path: str | None, network: Backbone) -> dict[str, Tensor]:
    """Return torchvision's weights of a classifier from a file, or torchvision's own copy, which it may download.

    Raises OptionError saying which file to fetch and where to put it.
    """
    if path is not None:
        if not Path(path).is_file():
            raise OptionError(
                f"weights: no file {path}{looked_in(path)}, expected torchvision's {network} ({FILES[network]})"
            )
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
            raise OptionError(f"weights: {path} cannot be read as PyTorch weights ({error})") from error
    chosen = pretrained(network)
    try:
        return dict(chosen.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise OptionError(f"{unfetched(network, error)}, or name the file under `weights:`") from error


def pretrained(network: Backbone) -> Any:  # noqa: ANN401
    """Return torchvision's entry of a classifier's weights."""
    from torchvision import models  # slow to import, and needed by few runs

    entries = {"vgg19": models.VGG19_Weights, "vgg16": models.VGG16_Weights, "alexnet": models.AlexNet_Weights}
    return entries[network].IMAGENET1K_V1


def unfetched(network: Backbone, error: Exception) -> str:
    """Say which file of weights to put where."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    url = pretrained(network).url
    return f"the {network} weights could not be downloaded ({error}); fetch {url} elsewhere and put it into {folder}"


def package_of_loss(name: str) -> ModuleType:
    """Import a package that a loss stands on. Raises OptionError naming the extra."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise OptionError(f"needs the package {name}; pip install -e '.[losses]'") from error


def fill(
    network: nn.Module, theirs: Mapping[str, str], state: Mapping[str, Tensor], file: str | None, of: Backbone
) -> None:
    """Give a network, in place, the weights of a classifier; `theirs` are torchvision's names by the network's own.

    Raises OptionError, naming the file, where it lacks one or has another shape.
    """
    expected = f"expected torchvision's {of} ({FILES[of]})"
    if missing := [key for key in theirs.values() if key not in state]:
        raise OptionError(f"{file}: has no {missing[0]}, {expected}")
    try:
        network.load_state_dict({own: state[key].float() for own, key in theirs.items()}, assign=True)
    except RuntimeError as error:
        raise OptionError(f"{file}: has weights of another shape, {expected}") from error


def constant(network: nn.Module) -> nn.Module:
    """Turn a network's weights into buffers that are not saved: no optimizer finds them, no checkpoint holds them."""
    for module in network.modules():
        for name, weight in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if isinstance(weight, nn.Parameter):
                delattr(module, name)
            module.register_buffer(name, weight.detach(), persistent=False)
    return network.eval()
