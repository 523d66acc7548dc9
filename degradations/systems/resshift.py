"""The degradation that ResShift is trained on (Yue et al., NeurIPS 2023): Real-ESRGAN's, half of the time of one order.

Values of its released configuration realsr_swinunet_realesrgan256, whose first order and probabilities were compared
with a copy of the file. Its sizes of kernels, from 3 to below 21 and below 15 in the second order, were not at hand and
are from memory.
"""

from collections.abc import Mapping
from typing import Literal

from degradations import DEGRADATIONS, Step, StepEntry
from degradations.pipeline import Group
from degradations.systems.realesrgan import FINAL, ORDERS, RealESRGAN
from utils.options.fields import Prob
from utils.options.files import merge

CHANGES = {
    "first": {"blur": {"size_range": [3, 19]}},
    "second": {"prob": 0.5, "blur": {"size_range": [3, 13]}},
}


@DEGRADATIONS.register(
    "resshift", presets={"orders": merge(ORDERS, CHANGES), "final": FINAL, "usm": {"type": "sharpen"}}
)
def resshift(
    orders: Mapping[str, Mapping[str, StepEntry | Prob]],
    final: Mapping[str, StepEntry],
    usm: Step,
    scale: int,
    start: Literal["plain", "usm"] = "plain",
    draws: Literal["sample", "batch"] = "sample",
    groups: Mapping[str, Group] = {},  # noqa: B006 - never written to
) -> RealESRGAN:
    """Build Real-ESRGAN's degradation of unsharpened photographs, its second order with probability 0.5.

    Args:
        orders: the rounds, each its steps in their order, and with `prob` how often the whole round happens.
        final: the end.
        usm: the sharpening of the ground truth.
        start: whether the degradation starts from the sharpened or from the plain ground truth.
        draws: whether what the released code decides once per batch is drawn for each sample.
        groups: steps that happen together or not at all.

    Ranges and probabilities are Real-ESRGAN's; kernels are of sizes from 3 to 19, and to 13 in the second order. What
    the options mean says `realesrgan`.
    """
    return RealESRGAN(orders, final, usm, scale, start, draws, groups)
