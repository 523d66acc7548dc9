"""SRMD's degradation: blur, then MATLAB's bicubic (Zhang et al., "Learning a Single CNN …", CVPR 2018)."""

from collections.abc import Mapping

from degradations import DEGRADATIONS, StepEntry
from degradations.pipeline import Pipeline

STEPS = {
    "blur": {"type": "shifted_gaussian_blur", "align": "centre"},
    "bicubic": {"type": "matlab_bicubic"},
}


@DEGRADATIONS.register("srmd", presets={"steps": STEPS})
def srmd(steps: Mapping[str, StepEntry], scale: int) -> Pipeline:
    """Blur circularly by a centred Gaussian, downscale by MATLAB's bicubic, round to 8 bits.

    Args:
        steps: by name, in order; null takes one out.

    It tells the `kernel` on the ground truth's grid, without what the bicubic adds to it, and `sigma`: 0, unless a
    step such as `noise: {type: gaussian_noise, kinds: {color: 1}}` is added.
    """
    return Pipeline(steps, scale, conditions=("kernel", "sigma"))
