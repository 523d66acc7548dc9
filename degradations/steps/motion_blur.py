"""Blur by camera shake."""

from collections.abc import Sequence

import numpy as np

from degradations import STEPS, Drawn, Ragged, State, Step
from degradations.kernels.frame import check_wraps
from degradations.kernels.motion import kernel_of_seed
from degradations.operations.filters import Border, convolve
from utils.options.fields import Odd


@STEPS.register("motion_blur")
class MotionBlur(Step):
    """Blur by camera shake, see `degradations.kernels.motion`. Not clipped.

    A plan holds the seed of the camera's path as `trajectory`, so that it stays small.

    Args:
        size: side of the kernel.
        border: how the image goes on outside; USRNet's solution in the Fourier domain assumes that it wraps.
    """

    def __init__(self, size: Odd = 25, border: Border = "wrap") -> None:
        self.size = size
        self.border: Border = border

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        check_wraps(state.size, self.size, self.border)
        return {"size": self.size, "trajectory": int(rng.integers(2**32))}

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        return convolve(images, [self.kernel(d) for d in drawn], self.border)

    def kernel(self, drawn: Drawn) -> np.ndarray:
        return kernel_of_seed(drawn["trajectory"], drawn["size"])
