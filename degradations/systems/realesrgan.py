"""Real-ESRGAN's second-order degradation (Wang et al., ICCV Workshops 2021, Sec. 3)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from torch import Tensor

from degradations import DEGRADATIONS, Degraded, Plan, Ragged, Step, StepEntry
from degradations.pipeline import Group, Order, Pipeline
from degradations.steps.sharpen import Sharpen
from utils.options.fields import Prob

MODES = ["pool", "linear", "cubic"]


def noise(level_range: list[float], strength_range: list[float]) -> dict[str, Any]:
    """Return the options of Gaussian or Poisson noise, each half of the time."""
    kinds, gray_prob = {"color": 0.6, "gray": 0.4}, 0.4
    gaussian = {"type": "gaussian_noise", "level_range": level_range, "levels": "continuous", "kinds": kinds}
    poisson = {"type": "poisson_noise", "peak": "levels", "strength_range": strength_range, "base": "exact"}
    of = {"gaussian": {**gaussian, "prob": 0.5}, "poisson": {**poisson, "gray_prob": gray_prob, "prob": 0.5}}
    return {"type": "one_of", "of": of}


def resize(kinds: dict[str, float], top: float, bottom: float, **options: str) -> dict[str, Any]:
    ranges = {"up_range": [1, top], "down_range": [bottom, 1]}
    return {"type": "resize_up_down_keep", "kinds": kinds, **ranges, "modes": MODES, "clip": False, **options}


ORDERS = {
    "first": {
        "blur": {"type": "mixed_blur"},
        "resize": resize({"up": 0.2, "down": 0.7, "keep": 0.1}, 1.5, 0.15, sampling="factor"),
        "noise": noise([1, 30], [0.05, 3]),
        "jpeg": {"type": "jpeg"},
    },
    "second": {
        "blur": {"type": "mixed_blur", "sigma_range": [0.2, 1.5], "prob": 0.8},
        "resize": resize({"up": 0.3, "down": 0.4, "keep": 0.3}, 1.2, 0.3, relative_to="lq"),
        "noise": noise([1, 25], [0.05, 2.5]),
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
    """Blur, resize, add noise, compress; the first three again; then a last resize, low-pass and JPEG: Real-ESRGAN.

    Args:
        orders: the rounds, each its steps in their order, and with `prob` how often the whole round happens; `second:
            null` makes it the classical first-order model.
        final: the end. `jpeg` comes after `resize` and `sinc`, or before them, equally likely; `round` is the last.
        usm: the sharpening of the ground truth.
        start: whether the degradation starts from the sharpened or from the plain ground truth.
        draws: what the released code decides once per batch (resizes, kind of noise, whether there is a second blur,
            the order at the end) is drawn for each `sample`, or once per `batch` as there.
        groups: further steps that happen together or not at all.

    A plan names the steps `first.blur`, …, `final.round`. The targets are `plain` and `usm`.

    Unlike the released code, JPEG is libjpeg's (`table: released` of both `jpeg` steps is theirs), gray noise is no one
    pattern for all gray samples of a batch, and the target `usm` is cropped from the sharpened whole, not sharpened
    anew after the crop.

    >>> import numpy, torch
    >>> degradation = DEGRADATIONS.build({"type": "realesrgan", "orders": {"second": None}}, scale=4)
    >>> plan = degradation.sample(numpy.random.default_rng(0), (128, 96))
    >>> [name for name, drawn in plan.steps if name.startswith("first")]
    ['first.blur', 'first.resize', 'first.noise', 'first.jpeg']
    >>> made = degradation.apply(torch.rand(1, 3, 128, 96), [plan])
    >>> made.lq.shape, sorted(made.targets)
    (torch.Size([1, 3, 32, 24]), ['plain', 'usm'])
    """

    targets = ("plain", "usm")

    def __init__(
        self,
        orders: Mapping[str, Mapping[str, StepEntry | Prob]],
        final: Mapping[str, StepEntry],
        usm: Step,
        scale: int,
        start: Literal["plain", "usm"] = "usm",
        draws: Literal["sample", "batch"] = "sample",
        groups: Mapping[str, Group] = {},  # noqa: B006 - never written to
    ) -> None:
        if "final" in orders:
            raise ValueError("orders: found one called `final`; its name is taken by the end of the degradation")
        if not isinstance(usm, Sharpen):
            raise ValueError(f"usm: found {type(usm).__name__}, expected `type: sharpen`, which draws nothing")
        steps: dict[str, StepEntry] = {}
        for prefix, entries in {**orders, "final": final}.items():
            for name, entry in entries.items():
                if isinstance(entry, StepEntry):
                    steps[f"{prefix}.{name}"] = entry
                elif name != "prob":
                    raise ValueError(f"orders.{prefix}.{name}: found {entry}, expected a step; a number is only `prob`")
        groups = {
            **{name: Group(_steps_of(name, steps), _chance(entries)) for name, entries in orders.items()},
            **groups,
        }
        groups = {name: group for name, group in groups.items() if group.prob < 1}
        ends = (("final.resize", "final.sinc", "final.jpeg"), ("final.jpeg", "final.resize", "final.sinc"))
        order = Order(last=("final.round",), alternatives=ends)
        super().__init__(steps, scale, order, draws=draws, groups=groups)
        self.usm, self.start = usm, start

    def apply(self, gt: Tensor, plans: Sequence[Plan], lq: Tensor | None = None) -> Degraded:
        sharp = self.usm.apply(Ragged.of(gt), [{}] * len(plans)).data
        made = super().apply(sharp if self.start == "usm" else gt, plans)
        return replace(made, targets={"plain": gt, "usm": sharp})


def _steps_of(order: str, steps: Mapping[str, StepEntry]) -> tuple[str, ...]:
    return tuple(name for name in steps if name.startswith(f"{order}."))


def _chance(entries: Mapping[str, StepEntry | Prob]) -> float:
    prob = entries.get("prob", 1.0)
    return 1.0 if isinstance(prob, StepEntry) else prob
