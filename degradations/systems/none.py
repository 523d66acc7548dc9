"""No degradation: the data set brings its own low-quality images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from degradations import DEGRADATIONS, Degradation, Degraded, Plan, Ragged, Size
from degradations.steps.sharpen import usm


@DEGRADATIONS.register("none")
class NoDegradation(Degradation):
    """For paired data: the low-quality image is the given one. With `usm` there is a sharpened target too."""

    starts_from_lq: ClassVar[bool] = True

    def __init__(self, scale: int, usm: bool = False) -> None:
        self.scale = scale
        self.targets = ("plain", "usm") if usm else ("plain",)

    def sample(
        self,
        rng: np.random.Generator,
        size: Size,
        iteration: int = 0,
        shared: Mapping[str, Any] | None = None,
    ) -> Plan:
        return Plan(size, self.scale)

    def apply(self, gt: Tensor, plans: Sequence[Plan], lq: Tensor | None = None) -> Degraded:
        if lq is None:
            raise ValueError("`degradation: none` needs a data set with low-quality images, such as `paired`")
        return Degraded(lq, {"plain": gt, **({"usm": usm(Ragged.of(gt)).data} if "usm" in self.targets else {})})
