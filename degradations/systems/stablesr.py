"""The degradation that StableSR is trained on (Wang et al., IJCV 2024): a milder Real-ESRGAN, which others took over.

Values of its released configuration v2-finetune_text_T_512, compared with those of two systems that took them over
(S3Diff, AdcSR): all ranges and probabilities, and 21 and 11 as sizes of kernels. That sizes are drawn from 3 to below
these two is from memory.
"""

from collections.abc import Mapping
from typing import Any, Literal

from degradations import DEGRADATIONS, Step, StepEntry
from degradations.pipeline import Group
from degradations.systems.realesrgan import FINAL, ORDERS, RealESRGAN, noise, resize
from utils.options.fields import Prob
from utils.options.files import merge

BETAS = {"beta_gaussian_range": [0.5, 2.0], "beta_plateau_range": [1, 1.5]}
CHANGES = {
    "first": {
        "blur": {"size_range": [3, 19], "sigma_range": [0.2, 1.5], **BETAS},
        "resize": resize({"up": 0.2, "down": 0.7, "keep": 0.1}, 1.5, 0.3, sampling="factor"),
        "noise": noise([1, 15], [0.05, 2]),
        "jpeg": {"quality_range": [60, 95]},
    },
    "second": {
        "blur": {"size_range": [3, 9], "sigma_range": [0.2, 1.0], **BETAS, "prob": 0.5},
        "resize": resize({"up": 0.3, "down": 0.4, "keep": 0.3}, 1.2, 0.6, relative_to="lq"),
        "noise": noise([1, 12], [0.05, 1]),
    },
}
STABLESR_ORDERS = merge(ORDERS, CHANGES)
STABLESR_FINAL = merge(FINAL, {"jpeg": {"quality_range": [60, 100]}})
SPOILING = [
    *(f"{order}.{step}" for order, steps in STABLESR_ORDERS.items() for step in steps),
    "final.sinc",
    "final.jpeg",
]
PRESETS: dict[str, Any] = {
    "orders": STABLESR_ORDERS,
    "final": STABLESR_FINAL,
    "usm": {"type": "sharpen"},
    "groups": {"degraded": {"steps": SPOILING, "prob": 0.99}},
}


@DEGRADATIONS.register("stablesr", presets=PRESETS)
def stablesr(
    orders: Mapping[str, Mapping[str, StepEntry | Prob]],
    final: Mapping[str, StepEntry],
    usm: Step,
    scale: int,
    start: Literal["plain", "usm"] = "usm",
    draws: Literal["sample", "batch"] = "sample",
    groups: Mapping[str, Group] = {},  # noqa: B006 - never written to
) -> RealESRGAN:
    """Return a milder Real-ESRGAN; one image in a hundred (`groups.degraded`) is only resized.

    Args:
        orders: the rounds, each its steps in their order, and with `prob` how often the whole round happens.
        final: the end.
        usm: the sharpening of the ground truth.
        start: whether the degradation starts from the sharpened or from the plain ground truth.
        draws: whether what the released code decides once per batch is drawn for each sample.
        groups: steps that happen together or not at all.

    Kernels are of sizes from 3 to 19, and to 9 in the second order, which always happens; `orders.second.prob: 0.5` is
    ResShift's. Released, the image that is only resized is the ground truth itself, without a way over the small size.
    What the options mean says `realesrgan`.
    """
    kept = {step for order, entries in orders.items() for step in (f"{order}.{name}" for name in entries)}
    kept |= {f"final.{name}" for name in final}
    groups = {n: Group(tuple(step for step in g.steps if step in kept), g.prob) for n, g in groups.items()}
    return RealESRGAN(orders, final, usm, scale, start, draws, groups)
