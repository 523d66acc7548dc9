"""Downsampling by a random factor, or by blurring and keeping every s-th pixel."""

from collections.abc import Sequence

import numpy as np

from degradations import STEPS, Drawn, Ragged, State, Step
from degradations.kernels.families import gaussian_row, shift_to_upper_left
from degradations.operations.filters import convolve
from degradations.operations.resizing import MODES, Interpolation, draw_mode, resize_drawn
from utils.options.fields import Odd, PositiveRange, Prob


@STEPS.register("random_downsample")
class RandomDownsample(Step):
    """Downsample by a random factor, or blur and keep every s-th pixel (BSRGAN, Sec. 3.2). Clipped.

    s is the scale still to go. The blur is a Gaussian moved to the upper left, so that the result stays centred.

    Args:
        resize_prob: how often it is a plain resize.
        factor_range: of the resize, how many times smaller; left out, [1, 2 s].
        sigma_range: of the blur, in pixels; left out, [0.1, 0.6 s].
        kernel_size: side of the blur's kernel.
        modes: interpolations of the resize, all equally likely.
    """

    def __init__(
        self,
        resize_prob: Prob = 0.75,
        factor_range: PositiveRange | None = None,
        sigma_range: PositiveRange | None = None,
        kernel_size: Odd = 25,
        modes: tuple[Interpolation, ...] = MODES,
    ) -> None:
        self.resize_prob, self.kernel_size, self.modes = resize_prob, kernel_size, modes
        self.factor_range, self.sigma_range = factor_range, sigma_range

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        s, (height, width) = state.factor, state.size
        if rng.random() < self.resize_prob:
            low, high = (1, 2 * s) if self.factor_range is None else self.factor_range.at(state.iteration)
            factor = rng.uniform(low, high)
            state.size = (max(1, int(height / factor)), max(1, int(width / factor)))
            return {"size": list(state.size), "mode": draw_mode(rng, self.modes)}
        low, high = (0.1, 0.6 * s) if self.sigma_range is None else self.sigma_range.at(state.iteration)
        state.size = (-(-height // s), -(-width // s))
        return {"sigma": float(rng.uniform(low, high)), "stride": s}

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        def downsampled(stride: int | None, part: Ragged, at: list[int]) -> Ragged:
            if stride is None:
                return resize_drawn(part, [drawn[i] for i in at])
            rows = [shift_to_upper_left(gaussian_row(self.kernel_size, drawn[i]["sigma"]), stride) for i in at]
            sizes = tuple((-(-height // stride), -(-width // stride)) for height, width in part.sizes)
            return Ragged(convolve(part, rows).data[..., ::stride, ::stride], sizes).clip()

        return images.in_groups([values.get("stride") for values in drawn], downsampled)
