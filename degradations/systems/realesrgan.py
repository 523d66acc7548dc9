"""Real-ESRGAN's second-order degradation (Wang et al., ICCV Workshops 2021, Sec. 3)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from degradations import DEGRADATIONS, Degraded, Plan, Ragged, Step, StepEntry
from degradations.pipeline import Order, Pipeline
from degradations.steps.sharpen import Sharpen

MODES = ["pool", "linear", "cubic"]


def _noise(level_range: list[float], strength_range: list[float]) -> dict[str, Any]:
    """Gaussian or Poisson noise, each half of the time."""
    kinds, gray_prob = {"color": 0.6, "gray": 0.4}, 0.4
    gaussian = {"type": "gaussian_noise", "level_range": level_range, "levels": "continuous", "kinds": kinds}
    poisson = {"type": "poisson_noise", "peak": "levels", "strength_range": strength_range, "base": "exact"}
    of = {"gaussian": {**gaussian, "prob": 0.5}, "poisson": {**poisson, "gray_prob": gray_prob, "prob": 0.5}}
    return {"type": "one_of", "of": of}


def _resize(kinds: dict[str, float], top: float, bottom: float, **options: str) -> dict[str, Any]:
    ranges = {"up_range": [1, top], "down_range": [bottom, 1]}
    return {"type": "resize_up_down_keep", "kinds": kinds, **ranges, "modes": MODES, "clip": False, **options}


ORDERS = {
    "first": {
        "blur": {"type": "mixed_blur"},
        "resize": _resize({"up": 0.2, "down": 0.7, "keep": 0.1}, 1.5, 0.15, sampling="factor"),
        "noise": _noise([1, 30], [0.05, 3]),
        "jpeg": {"type": "jpeg"},
    },
    "second": {
        "blur": {"type": "mixed_blur", "sigma_range": [0.2, 1.5], "prob": 0.8},
        "resize": _resize({"up": 0.3, "down": 0.4, "keep": 0.3}, 1.2, 0.3, relative_to="lq"),
        "noise": _noise([1, 25], [0.05, 2.5]),
    },
}
FINAL = {
    "resize": {"type": "resize_to_lq", "modes": MODES, "clip": False},
    "sinc": {"type": "sinc_blur"},
    "jpeg": {"type": "jpeg"},
    "round": {"type": "round"},
}


@DEGRADATIONS.register("realesrgan", presets={"orders": ORDERS, "final": FINAL, "usm": {"type": "sharpen"}})
class RealESRGAN(Pipeline):
    """Real-ESRGAN: blur, resize, noise and JPEG, the first three again, then a last resize, low-pass and JPEG.

    Args:
        orders: the rounds, each its steps in their order; `second: null` makes it the classical first-order model.
        final: the end. `jpeg` comes after `resize` and `sinc`, or before them, equally likely; `round` is the last.
        usm: the sharpening of the ground truth.
        start: whether the degradation starts from the sharpened or from the plain ground truth.
        draws: what the released code decides once per batch (resizes, kind of noise, whether there is a second blur,
            the order at the end) is drawn for each `sample`, or once per `batch` as there.

    A plan names the steps `first.blur`, …, `final.round`. The targets are `plain` and `usm`.

    Unlike the released code, JPEG is libjpeg's (`table: released` of both `jpeg` steps is theirs), gray noise is no one
    pattern for all gray samples of a batch, and the target `usm` is cropped from the sharpened whole, not sharpened
    anew after the crop.
    """

    targets = ("plain", "usm")

    def __init__(
        self,
        orders: Mapping[str, Mapping[str, StepEntry]],
        final: Mapping[str, StepEntry],
        usm: Step,
        scale: int,
        start: Literal["plain", "usm"] = "usm",
        draws: Literal["sample", "batch"] = "sample",
    ) -> None:
        if "final" in orders:
            raise ValueError("orders: found one called `final`; its name is taken by the end of the degradation")
        if not isinstance(usm, Sharpen):
            raise ValueError(f"usm: found {type(usm).__name__}, expected `type: sharpen`, which draws nothing")
        rounds = {**orders, "final": final}
        steps = {f"{prefix}.{name}": entry for prefix, entries in rounds.items() for name, entry in entries.items()}
        ends = (("final.resize", "final.sinc", "final.jpeg"), ("final.jpeg", "final.resize", "final.sinc"))
        super().__init__(steps, scale, Order(last=("final.round",), alternatives=ends), draws=draws)
        self.usm, self.start = usm, start

    def apply(self, gt: Tensor, plans: Sequence[Plan], lq: Tensor | None = None) -> Degraded:
        sharp = self.usm.apply(Ragged.of(gt), [{}] * len(plans)).data
        made = super().apply(sharp if self.start == "usm" else gt, plans)
        return replace(made, targets={"plain": gt, "usm": sharp})
