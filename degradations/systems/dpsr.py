"""DPSR's degradation: MATLAB's bicubic, then blur (Zhang et al., "Deep Plug-and-Play Super-Resolution", CVPR 2019)."""

from collections.abc import Mapping

from degradations import DEGRADATIONS, StepEntry
from degradations.pipeline import Pipeline

STEPS = {
    "bicubic": {"type": "matlab_bicubic"},
    "blur": {"type": "shifted_gaussian_blur", "align": "centre"},
}


@DEGRADATIONS.register("dpsr", presets={"steps": STEPS})
def dpsr(steps: Mapping[str, StepEntry], scale: int) -> Pipeline:
    """Downscale by MATLAB's bicubic, round to 8 bits, then blur circularly by a centred Gaussian.

    Args:
        steps: by name, in order; null takes one out.

    It tells the `kernel` on the low-quality grid, and `sigma`: 0, unless a step such as
    `noise: {type: gaussian_noise, kinds: {color: 1}}` is added.
    """
    return Pipeline(steps, scale, conditions=("kernel", "sigma"))
