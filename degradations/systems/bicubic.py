"""The classical benchmark's degradation: MATLAB's bicubic and nothing else."""

from collections.abc import Mapping

from degradations import DEGRADATIONS, StepEntry
from degradations.pipeline import Pipeline


@DEGRADATIONS.register("bicubic", presets={"steps": {"bicubic": {"type": "matlab_bicubic"}}})
def bicubic(steps: Mapping[str, StepEntry], scale: int) -> Pipeline:
    """Downscale by MATLAB's antialiased bicubic, and round to 8 bits.

    Args:
        steps: by name, in order; null takes one out.
    """
    return Pipeline(steps, scale)
