"""No degradation: the data set brings its own low-quality images."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from degradations import DEGRADATIONS, Degradation, Degraded, Plan, Ragged, Shared, Size
from degradations.steps import sharpen


@DEGRADATIONS.register("none")
class NoDegradation(Degradation):
    """Take the low-quality images that a data set of pairs brings.

    Args:
        scale: how many times smaller they are.
        usm: whether there is a sharpened target too.
    """

    starts_from_lq: bool = True

    def __init__(self, scale: int, usm: bool = False) -> None:
        self.scale = scale
        self.targets = ("plain", "usm") if usm else ("plain",)

    def sample(self, rng: np.random.Generator, size: Size, iteration: int = 0, shared: Shared | None = None) -> Plan:
        return Plan(size, self.scale)

    def apply(self, gt: Tensor, plans: Sequence[Plan], lq: Tensor | None = None) -> Degraded:
        if lq is None:
            raise ValueError("`degradation: none` needs a data set with low-quality images, such as `paired`")
        sharp = {"usm": sharpen.usm(Ragged.of(gt)).data} if "usm" in self.targets else {}
        return Degraded(lq, {"plain": gt, **sharp})
