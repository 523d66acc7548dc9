"""What metrics by networks share: packages beyond the dependencies, which bring trained weights and other licences."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.metrics import Metric, check_pair
from utils.options.fields import OptionError

_HINTS = {
    "lpips": "pip install lpips",
    "pyiqa": "pip install pyiqa (licence: PolyForm Noncommercial 1.0.0; some 80 packages)",
}


class Learned(Metric):
    """Measure by a network on RGB images (1, 3, H, W) in [0, 1]."""

    channels = ("rgb",)
    network: Callable[..., Tensor]
    device: str

    def __call__(self, sr: np.ndarray, gt: np.ndarray | None) -> float:
        images = [sr, check_pair(sr, gt)] if self.needs_gt else [sr]
        if sr.ndim != 3 or sr.shape[2] != 3:
            raise ValueError(f"found an image of shape {sr.shape}, expected RGB (H, W, 3)")
        with torch.inference_mode():
            return float(self.network(*(_tensor(image, self.device) for image in images)).mean())


def imported(*names: str) -> ModuleType:
    """Import the first of these packages that is installed. Raises OptionError with the commands that install them."""
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


def loaded(what: str, load: Callable[[], Any]) -> Any:  # noqa: ANN401
    """Load a network with its weights, which the package may have to download. Raises OptionError."""
    try:
        return load()
    except (OSError, RuntimeError, ValueError, KeyError, ImportError) as error:
        raise OptionError(f"{what} cannot be loaded (weights are downloaded on first use): {error}") from error


def _tensor(image: np.ndarray, device: str) -> Tensor:
    """Turn (H, W, 3) in 0…255 into (1, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)[None] / 255)).to(device, torch.float32)
