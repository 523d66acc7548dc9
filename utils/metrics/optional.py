"""Learned metrics by packages that are not among the dependencies: they bring trained weights, and other licences.

- lpips (BSD): LPIPS alone. Its backbone's weights are downloaded by torchvision on first use.
- pyiqa (PolyForm Noncommercial 1.0.0: no commercial use): some sixty metrics, with or without a ground truth; weights
  are downloaded on first use. It installs some eighty packages.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from utils.metrics import METRICS, Metric, check_pair
from utils.options.components import nearest
from utils.options.fields import OptionError

_HINTS = {
    "lpips": "pip install lpips",
    "pyiqa": "pip install pyiqa (licence: PolyForm Noncommercial 1.0.0; some 80 packages)",
}
_OF_FOLDERS = ("fid", "fid_dinov2", "fid_mmd", "inception_score")  # need sets of images; no value for a single one


class _Learned(Metric):
    """A metric by a network on RGB images (1, 3, H, W) in [0, 1]."""

    channels = ("rgb",)
    network: Callable[..., Tensor]
    device: str

    def __call__(self, sr: np.ndarray, gt: np.ndarray | None) -> float:
        images = [sr, check_pair(sr, gt)] if self.needs_gt else [sr]
        if sr.ndim != 3 or sr.shape[2] != 3:
            raise ValueError(f"found an image of shape {sr.shape}, expected RGB (H, W, 3)")
        with torch.inference_mode():
            return float(self.network(*(_tensor(image, self.device) for image in images)).mean())


@METRICS.register("pyiqa")
class Pyiqa(_Learned):
    """Any metric of the package pyiqa, which knows whether it needs a ground truth and which direction is better.

    The package is for noncommercial use only (PolyForm Noncommercial 1.0.0).

    Args:
        name: pyiqa's name for it, such as lpips, dists, musiq, maniqa, clipiqa.
        device: where it is computed.

    Raises:
        OptionError: the package is not installed, has no such metric, or cannot load its weights.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        package = _package("pyiqa")
        known = package.list_models()
        if name not in known:
            raise OptionError(f"name: pyiqa has no metric {name!r}{nearest(name, sorted(known))}")
        if name in _OF_FOLDERS:
            raise OptionError(f"name: {name} compares sets of images, and a benchmark needs a value for each image")
        self.network: Any = _loaded(f"pyiqa's {name}", lambda: package.create_metric(name, device=torch.device(device)))
        self.device = device
        self.needs_gt = self.network.metric_mode == "FR"
        self.higher_is_better = not self.network.lower_better


@METRICS.register("lpips")
class Lpips(_Learned):
    """Learned perceptual image patch similarity (Zhang et al., CVPR 2018), version 0.1; lower is better.

    Args:
        net: the backbone: `alex`, with which most papers report, or `vgg`.
        package: `lpips`, or `pyiqa` (noncommercial use only); auto: the first of them that is installed.
        device: where it is computed.

    Raises:
        OptionError: the package is not installed, or cannot load its weights.
    """

    higher_is_better = False

    def __init__(
        self,
        net: Literal["alex", "vgg"] = "alex",
        package: Literal["auto", "lpips", "pyiqa"] = "auto",
        device: str = "cpu",
    ) -> None:
        module = _package(*(("lpips", "pyiqa") if package == "auto" else (package,)))
        self.device = device
        if module.__name__ == "pyiqa":
            name = {"alex": "lpips", "vgg": "lpips-vgg"}[net]
            self.network = _loaded(name, lambda: module.create_metric(name, device=torch.device(device)))
        else:
            network = _loaded("lpips", lambda: module.LPIPS(net=net, verbose=False).to(device).eval())
            self.network = lambda sr, gt: network(sr, gt, normalize=True)  # takes [0, 1] instead of [-1, 1]


def _package(*names: str) -> ModuleType:
    """The first of these packages that is installed. Raises OptionError with the commands that install them."""
    for name in names:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                raise OptionError(f"the package {name} is installed, but fails: {error}") from error
        except (ImportError, AttributeError, OSError, RuntimeError) as error:  # its pins do not fit those of others
            raise OptionError(f"the package {name} is installed, but fails: {error}") from error
    commands = ", or ".join(_HINTS[name] for name in names)
    raise OptionError(f"this metric needs the package {' or '.join(names)}, which is not installed: {commands}")


def _loaded(what: str, load: Callable[[], Any]) -> Any:  # noqa: ANN401
    """A network with its weights, which the package may have to download."""
    try:
        return load()
    except (OSError, RuntimeError, ValueError, KeyError, ImportError) as error:
        raise OptionError(f"{what} cannot be loaded (weights are downloaded on first use): {error}") from error


def _tensor(image: np.ndarray, device: str) -> Tensor:
    """(H, W, 3) in 0…255 to (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)[None] / 255)).to(device, torch.float32)
