"""DISTS as a loss, by the package of its authors."""

import warnings

import torch
from torch import Tensor

from losses import LOSSES, Loss
from losses.backbones import constant, package_of_loss, unfetched
from utils.options.fields import OptionError


@LOSSES.register("dists")
class DistsLoss(Loss):
    """Minimise the distance in structure and texture of RGB or gray images (Ding et al., TPAMI 2022).

    Needs the extra `losses`, whose package DISTS-pytorch brings the trained shares of the features of VGG16. Its
    weights are torchvision's own copy, or downloaded.

    Raises:
        OptionError: the package or the weights cannot be had; it says which file to put where.
    """

    def __init__(self) -> None:
        super().__init__()
        package = package_of_loss("DISTS_pytorch")
        try:
            # Random draws before the weights are loaded must not move those of what is built next.
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # it asks torchvision in an older way
                network = package.DISTS()
        except (OSError, RuntimeError) as error:
            raise OptionError(unfetched("vgg16", error)) from error
        self.network = constant(network)

    def forward(self, sr: Tensor, target: Tensor, **extras: Tensor) -> Tensor:
        sr, target = (image.expand(-1, 3, -1, -1) for image in (sr, target))
        return self.network(sr, target, require_grad=True, batch_average=True)
