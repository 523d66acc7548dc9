"""LPIPS, by the package lpips (BSD licence, its backbone's weights downloaded by torchvision) or by pyiqa."""

from typing import Literal

import torch

from utils.metrics import METRICS
from utils.metrics.learned import Learned, imported, loaded


@METRICS.register("lpips")
class Lpips(Learned):
    """Measure the learned perceptual image patch similarity (Zhang et al., CVPR 2018), version 0.1; lower is better.

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
        module = imported(*(("lpips", "pyiqa") if package == "auto" else (package,)))
        self.device = device
        if module.__name__ == "pyiqa":
            name = {"alex": "lpips", "vgg": "lpips-vgg"}[net]
            self.network = loaded(name, lambda: module.create_metric(name, device=torch.device(device)))
        else:
            network = loaded("lpips", lambda: module.LPIPS(net=net, verbose=False).to(device).eval())
            self.network = lambda sr, gt: network(sr, gt, normalize=True)  # takes [0, 1] instead of [-1, 1]
