"""Gaussian blur, downsampling and noise, of DASR (Wang et al., CVPR 2021) and CDSR (Zhou et al., ACM MM 2022)."""

from collections.abc import Mapping

from degradations import DEGRADATIONS, StepEntry
from degradations.pipeline import Pipeline
from degradations.steps.every_nth import EveryNth

STEPS = {
    "blur": {
        "type": "shifted_gaussian_blur",
        "size": 21,
        "sigma_range": [0.2, 4.0],
        "isotropic_prob": 1,
        "align": "centre",
        "border": "mirror",
    },
    "downsample": {"type": "matlab_bicubic", "rounding": "none", "clip": False},
    "noise": {
        "type": "gaussian_noise",
        "kinds": {"color": 1.0},
        "levels": "continuous",
        "level_range": [0, 0],
        "clip": False,
    },
    "round": {"type": "round"},
}


@DEGRADATIONS.register("gaussian", presets={"steps": STEPS})
def gaussian(steps: Mapping[str, StepEntry], scale: int) -> Pipeline:
    """Blur by a Gaussian, downsample bicubically, add noise of a level in `noise.level_range`, round to 8 bits.

    Args:
        steps: by name, in order; null takes one out.

    As it stands, isotropic as DASR's first experiments; `isotropic_prob: 0` is anisotropic. CDSR's kernels have
    `sigma_range: null`, a `variance_range`, `second: up_to_first`, `window: symmetric` and `border: replicate`, and
    `downsample: {type: every_nth}` with `align: upper_left` to stay centred or `released` for its shift. With
    `blur.tile: 40` the kernel changes over the image.

    It tells the `kernel` on the ground truth's grid, without what a bicubic adds to it, and the noise's `sigma` before
    clipping and rounding.

    >>> import numpy, torch
    >>> degradation = DEGRADATIONS.build({"type": "gaussian", "steps": {"noise": {"level_range": [0, 25]}}}, scale=4)
    >>> plan = degradation.sample(numpy.random.default_rng(0), (64, 96))
    >>> degradation.apply(torch.rand(1, 3, 64, 96), plan.views(2)[:1]).lq.shape
    torch.Size([1, 3, 16, 24])
    """
    blur, downsample = (steps[name].step if name in steps else None for name in ("blur", "downsample"))
    align = getattr(blur, "align", None)
    if align is not None and scale > 1 and (align == "centre") == isinstance(downsample, EveryNth):
        expected = "upper_left (or released)" if align == "centre" else "centre"
        raise ValueError(
            f"steps.blur.align: found {align}, which moves the image by {(scale - 1) / 2:g} of its pixels with this "
            f"downsampling; expected {expected}"
        )
    return Pipeline(steps, scale, conditions=("kernel", "sigma"))
