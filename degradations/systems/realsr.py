"""RealSR's degradation: estimated blur or bicubic, then recorded noise (Ji et al., CVPR Workshops 2020)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from torch import Tensor

from degradations import DEGRADATIONS, Degraded, Plan, Shared, Size, StepEntry
from degradations.pipeline import Order, Pipeline
from degradations.steps.every_nth import EveryNth
from degradations.steps.kernel_bank import KernelBank

STEPS = {
    "down": {"type": "matlab_bicubic"},
    "noise": {"type": "real_noise"},
}


@DEGRADATIONS.register("realsr", presets={"steps": STEPS})
class RealSR(Pipeline):
    """Downsample, then add the noise of a pool (`noise.path`), in the order of the file: RealSR.

    With a pool of estimated kernels, `blur: {type: kernel_bank, path: POOL, border: symmetric}`, which comes first, and
    `down: {type: every_nth}`. Further steps, such as a JPEG, come last.

    Args:
        start: from the ground truth (`gt`), or from the given low-quality image of a pair (`lq`), to which the steps
            but `blur` and `down` are applied.

    Unlike the released code, which makes the low-quality images once and cuts them off to 8 bits, it is rounded.
    """

    def __init__(self, steps: Mapping[str, StepEntry], scale: int, start: Literal["gt", "lq"] = "gt") -> None:
        blur, down = (steps[name].step if name in steps else None for name in ("blur", "down"))
        centred = getattr(blur, "align", None) == "centre"
        if isinstance(blur, KernelBank) and centred == isinstance(down, EveryNth):
            expected = "`align: upper_left` or as_is with every_nth" if centred else "`down: {type: every_nth}`"
            raise ValueError(
                f"steps.blur: found kernels that with this steps.down move the image by {(scale - 1) / 2:g} of its "
                f"pixels; expected {expected}"
            )
        self.starts_from_lq = start == "lq"
        kept = {k: v for k, v in steps.items() if not (self.starts_from_lq and k in ("blur", "down"))}
        super().__init__(kept, scale, Order(first=("blur",)))

    def sample(self, rng: np.random.Generator, size: Size, iteration: int = 0, shared: Shared | None = None) -> Plan:
        if not self.starts_from_lq:
            return super().sample(rng, size, iteration, shared)
        lq_size = (size[0] // self.scale, size[1] // self.scale)
        plan = super().sample(rng, lq_size, iteration, {**(shared or {}), "scale": 1})
        return replace(plan, size=size, scale=self.scale)

    def apply(self, gt: Tensor, plans: Sequence[Plan], lq: Tensor | None = None) -> Degraded:
        if not self.starts_from_lq:
            return super().apply(gt, plans)
        if lq is None:
            raise ValueError("`start: lq` needs a data set with low-quality images, such as `paired`")
        return replace(super().apply(lq, plans), targets={"plain": gt})
