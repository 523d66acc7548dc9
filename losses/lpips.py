"""LPIPS as a loss, by the package of its authors."""

from typing import Literal

import torch
from torch import Tensor

from losses import LOSSES, Loss
from losses.backbones import Backbone, backbone_state, constant, fill, package_of_loss

BACKBONES: dict[str, Backbone] = {"alex": "alexnet", "vgg": "vgg16"}


@LOSSES.register("lpips")
class LpipsLoss(Loss):
    """Minimise the learned perceptual distance of RGB or gray images (Zhang et al., CVPR 2018), version 0.1.

    Needs the extra `losses`, whose package lpips brings the trained layers on top of the backbone.

    Args:
        net: the backbone: `vgg` (VGG16), which its authors advise for training, or `alex`, by which papers report.
        weights: a file with torchvision's weights of the backbone; without it torchvision's own copy is used or
            downloaded.

    Raises:
        OptionError: the package or the weights cannot be had; it says which file to put where.
    """

    def __init__(self, net: Literal["alex", "vgg"] = "vgg", weights: str | None = None) -> None:
        super().__init__()
        package, backbone = package_of_loss("lpips"), BACKBONES[net]
        state = backbone_state(weights, backbone)
        with torch.random.fork_rng(devices=[]):  # so that what is built next draws what it would without this loss
            network = package.LPIPS(net=net, pnet_rand=True, verbose=False)  # at random, or it would download
        # Its parts are called slice1.0.weight where torchvision's are features.0.weight.
        wanted = {key: f"features.{key.partition('.')[2]}" for key in network.net.state_dict()}
        fill(network.net, wanted, state, weights, backbone)
        self.network = constant(network)

    def forward(self, sr: Tensor, target: Tensor, **extras: Tensor) -> Tensor:
        sr, target = (image.expand(-1, 3, -1, -1) for image in (sr, target))
        return self.network(sr, target, normalize=True).mean()  # from [0, 1] to its [-1, 1]
