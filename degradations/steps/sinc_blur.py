"""The low-pass that leaves ringing."""

from collections.abc import Sequence
from math import pi

import numpy as np

from degradations import STEPS, Drawn, Ragged, State, Step
from degradations.kernels.families import sinc
from degradations.kernels.frame import check_mirrors, check_odd_range, draw_mirrored_size
from degradations.operations.filters import convolve
from utils.options.fields import IntRange, Prob


@STEPS.register("sinc_blur")
class SincBlur(Step):
    """Blur by a circular low-pass with a cutoff in [π/3, π], which rings and overshoots as sharpened and compressed
    images do (Real-ESRGAN, Sec. 3.3).

    Not clipped. The image, mirrored without its edge pixel, must be larger than the kernel's radius.

    Args:
        size_range: of the kernel's side, odd.
        sinc_prob: how often it happens: drawn for each sample, as released, also where `draws: batch` lets the
            entry's `prob` be drawn for the batch.
    """

    def __init__(self, size_range: IntRange = (7, 21), sinc_prob: Prob = 0.8) -> None:
        check_odd_range(size_range)
        self.size_range, self.sinc_prob = size_range, sinc_prob

    def sample(self, rng: np.random.Generator, state: State) -> Drawn | None:
        size = draw_mirrored_size(rng, self.size_range, state.size)
        if rng.random() >= self.sinc_prob:
            return None
        return {"kind": "sinc", "size": size, "cutoff": float(rng.uniform(pi / 3, pi))}

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        for size, values in zip(images.sizes, drawn, strict=True):
            check_mirrors(size, values["size"])
        return convolve(images, [self.kernel(values) for values in drawn])

    def kernel(self, drawn: Drawn) -> np.ndarray:
        return sinc(drawn["size"], drawn["cutoff"])
