"""Blur by a Gaussian that stands where the coming downsampling needs it."""

from collections.abc import Sequence
from math import pi, radians, sqrt
from typing import Literal

import numpy as np

from degradations import STEPS, Drawn, Ragged, State, Step
from degradations.kernels.families import anisotropic_gaussian, gaussian_row, square
from degradations.kernels.frame import Align, check_wraps, shift_of
from degradations.kernels.varying import Widths, convolve_varying, nodes, widths_between
from degradations.operations.filters import Border, convolve
from utils.options.fields import (
    NonNegative,
    NonNegativeRange,
    Odd,
    PositiveInt,
    PositiveRange,
    Prob,
    Range,
    RangeSchedule,
)


@STEPS.register("shifted_gaussian_blur")
class ShiftedGaussianBlur(Step):
    """Blur by a Gaussian that stands where the coming downsampling needs it (USRNet, CVPR 2020, Sec. 5.1). Not clipped.

    Args:
        size: side of the kernel.
        variance_range: of both variances, in square pixels; without a `sigma_range` either, [0.6, 12].
        sigma_range: of both standard deviations instead, in pixels (DASR); 0 is no blur.
        second: whether the second width is drawn as the first is, or `up_to_first` (CDSR).
        fixed: one kernel for all, [first, second, θ in degrees], with widths as in the range that is given.
        theta_range: of the angle from the x axis (to the right) down to the first one's axis, in radians.
        isotropic_prob: how often both widths are the same.
        align: `upper_left` for keeping the upper left pixel of each block; `centre` for resizing that keeps centres.
        window: the `full` kernel, or what of it lies `symmetric` about the centre (CDSR).
        border: how the image goes on outside.
        tile: lets the kernel change over the image: four are drawn, for its corners, the covariance goes bilinearly
            from one to the others, and every `tile` pixels there is a kernel, with blending in between. The kernel
            told is that in the middle.

    The shift follows the scale still to go, where the released code of USRNet draws it from 1 to 4, whatever that is.
    Quirk: `align: released` shifts to the lower right, as CDSR's code does with the upper left pixel of each block, so
    that pixel i of the result shows s·i - (s - 1) / 2 instead of the block's centre s·i + (s - 1) / 2.
    """

    def __init__(
        self,
        size: Odd = 25,
        variance_range: PositiveRange | None = None,
        sigma_range: NonNegativeRange | None = None,
        second: Literal["alike", "up_to_first"] = "alike",
        fixed: tuple[NonNegative, NonNegative, float] | None = None,
        theta_range: Range = RangeSchedule.fixed(0, pi),  # noqa: B008 - never written to
        isotropic_prob: Prob = 0.0,
        align: Align | Literal["released"] = "upper_left",
        window: Literal["full", "symmetric"] = "full",
        border: Border = "wrap",
        tile: PositiveInt | None = None,
    ) -> None:
        if variance_range is not None and sigma_range is not None:
            raise ValueError(
                f"found a variance_range {variance_range} and a sigma_range {sigma_range}, expected one of them; the "
                "other may be null"
            )
        self.width_range = sigma_range or variance_range or RangeSchedule.fixed(0.6, 12)
        self.power = 1 if sigma_range is None else 2
        self.size, self.theta_range, self.isotropic_prob = size, theta_range, isotropic_prob
        self.second, self.fixed, self.window, self.tile = second, fixed, window, tile
        self.align: Align | Literal["released"] = align
        self.border: Border = border

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        check_wraps(state.size, self.size, self.border)
        shift = shift_of(self.align, state.factor)
        if abs(shift) > self.size // 2:
            raise ValueError(
                f"at scale {state.factor} a kernel of {self.size}x{self.size} does not hold its own centre"
            )
        drawn: Drawn = {"size": self.size, "shift": shift}
        if self.window == "symmetric":
            drawn["side"] = self.size - round(2 * abs(shift))
        if self.tile is not None:
            return {**drawn, "corners": [list(self._draw(rng, state.iteration)) for _ in range(4)], "tile": self.tile}
        first, second, theta = self._draw(rng, state.iteration)
        return {**drawn, "variances": [first, second], "theta": theta}

    def _draw(self, rng: np.random.Generator, iteration: int) -> Widths:
        """Draw both variances and θ."""
        if self.fixed is not None:
            first, second, degrees = self.fixed
            return first**self.power, second**self.power, radians(degrees)
        low, high = self.width_range.at(iteration)
        first, second = (float(u) for u in rng.random(2))
        first = low + (high - low) * first
        second = low + ((first if self.second == "up_to_first" else high) - low) * second
        if rng.random() < self.isotropic_prob:
            second = first
        return first**self.power, second**self.power, float(rng.uniform(*self.theta_range.at(iteration)))

    def ranged(self, drawn: Drawn) -> dict[str, list[float]]:
        if "corners" in drawn or self.fixed is not None:
            return {}
        option = "variance_range" if self.power == 1 else "sigma_range"
        return {option: [v ** (1 / self.power) for v in drawn["variances"]], "theta_range": [drawn["theta"]]}

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        if "corners" not in drawn[0]:
            return convolve(images, [placed_gaussian(d, (*d["variances"], d["theta"])) for d in drawn], self.border)
        tile, canvas = drawn[0]["tile"], (images.data.shape[-2], images.data.shape[-1])
        places = [nodes(size, canvas, tile) for size in images.sizes]
        widths = [widths_between(d["corners"], *place) for d, place in zip(drawn, places, strict=True)]
        grids = [[square(placed_gaussian(d, w)) for w in grid] for d, grid in zip(drawn, widths, strict=True)]
        return convolve_varying(images, grids, tile, self.border)

    def kernel(self, drawn: Drawn) -> np.ndarray:
        if "corners" in drawn:
            middle = np.array([0.5])
            return square(placed_gaussian(drawn, widths_between(drawn["corners"], middle, middle)[0]))
        return square(placed_gaussian(drawn, (*drawn["variances"], drawn["theta"])))


def placed_gaussian(drawn: Drawn, widths: Widths) -> np.ndarray:
    """Return the Gaussian of these widths in the drawn frame: (k, k), or (k,) standing for its outer product."""
    first, second, theta = widths
    size, shift = drawn["size"], drawn["shift"]
    # A window smaller than the frame has the centre in its own middle, and stands in a corner of the frame.
    side, within = (drawn["side"], 0.0) if "side" in drawn else (size, shift)
    if first == second:
        kernel = gaussian_row(side, sqrt(first), within)
    else:
        kernel = anisotropic_gaussian(side, theta, first, second, within)
    return np.pad(kernel, (0, size - side) if shift > 0 else (size - side, 0))
