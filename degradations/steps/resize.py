"""Changes of size: halving, downsampling, up or down or neither, and the resize to the final low-quality size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from degradations import STEPS, Drawn, Ragged, Size, State, Step
from degradations.kernels.families import gaussian_row, shift_to_upper_left
from degradations.operations.filters import Interpolation, convolve, resize
from degradations.steps.rounding import round_to_8_bits
from utils.images.resize import Border, imresize
from utils.options.fields import Odd, PositiveInt, PositiveRange, Prob, RangeSchedule, Weights

MODES: tuple[Interpolation, ...] = ("linear", "cubic", "area")


def draw_mode(rng: np.random.Generator, modes: Sequence[str]) -> str:
    """One of the interpolations, all equally likely."""
    return modes[int(rng.integers(len(modes)))]


def resize_drawn(images: Ragged, drawn: Sequence[Drawn], clip: bool = True, border: Border = "symmetric") -> Ragged:
    """Resizes each image to its drawn `size` in its drawn `mode`, by its `factor` where it has one; `matlab` is
    antialiased bicubic, with this border."""
    ours = [i for i, d in enumerate(drawn) if d["mode"] != "matlab"]
    matlab = [i for i, d in enumerate(drawn) if d["mode"] == "matlab"]
    parts = []
    if ours:
        chosen = [drawn[i] for i in ours]
        sizes, modes, factors = zip(*((_pair(d), d["mode"], d.get("factor")) for d in chosen), strict=True)
        parts.append((ours, resize(images.select(ours), sizes, modes, factors)))
    if matlab:
        sizes = [_pair(drawn[i]) for i in matlab]
        part = images.select(matlab)
        if len({*part.sizes}) == len({*sizes}) == 1:
            part = Ragged.of(imresize(part.data, size=sizes[0], border=border))
        else:
            part = part.per_image(lambda image, k: imresize(image, size=sizes[k], border=border))
        parts.append((matlab, part))
    result = Ragged.join(parts)
    return result.clip() if clip else result


def _pair(drawn: Drawn) -> Size:
    height, width = drawn["size"]
    return height, width


@STEPS.register("halve")
class Halve(Step):
    """Halves the image first, so that everything after sees half the scale (BSRGAN, Sec. 3.2; released for x4 only).

    One half of the time MATLAB's bicubic, otherwise one of OpenCV's three interpolations. Happens only where the
    scale still to go is `when_factor`. Clipped.
    """

    def __init__(self, matlab_prob: Prob = 0.5, when_factor: PositiveInt = 4) -> None:
        if when_factor % 2:
            raise ValueError(f"when_factor is {when_factor}, expected an even number")
        self.matlab_prob, self.when_factor = matlab_prob, when_factor

    def sample(self, rng: np.random.Generator, state: State) -> Drawn | None:
        if state.factor != self.when_factor:
            return None
        mode = "matlab" if rng.random() < self.matlab_prob else draw_mode(rng, MODES)
        state.factor //= 2
        state.size = (state.size[0] // 2, state.size[1] // 2)
        return {"size": list(state.size), "mode": mode}

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        return resize_drawn(images, drawn)


@STEPS.register("random_downsample")
class RandomDownsample(Step):
    """Downsamples by a random factor in [1, 2 s], or blurs and keeps every s-th pixel (BSRGAN, Sec. 3.2).

    s is the scale still to go. With probability `resize_prob` a plain resize; otherwise a Gaussian of size
    `kernel_size` and σ in [0.1, 0.6 s], moved to the upper left so that the result stays centred. Clipped.
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
        resized = [i for i, d in enumerate(drawn) if "mode" in d]
        parts = []
        if resized:
            parts.append((resized, resize_drawn(images.select(resized), [drawn[i] for i in resized])))
        for s in sorted({d["stride"] for d in drawn if "stride" in d}):
            strided = [i for i, d in enumerate(drawn) if d.get("stride") == s]
            rows = [shift_to_upper_left(gaussian_row(self.kernel_size, drawn[i]["sigma"]), s) for i in strided]
            blurred = convolve(images.select(strided), rows)
            sizes = tuple((-(-height // s), -(-width // s)) for height, width in blurred.sizes)
            parts.append((strided, Ragged(blurred.data[..., ::s, ::s], sizes).clip()))
        return Ragged.join(parts)


@STEPS.register("resize_up_down_keep")
class ResizeUpDownKeep(Step):
    """Resizes by a random factor, up, down or not at all (KAIR's bsrgan_plus, with these defaults; Real-ESRGAN).

    Args:
        kinds: probabilities of `up`, `down` and `keep`.
        up_range: factors ≥ 1 of the sides when upsampling.
        down_range: factors ≤ 1 when downsampling; left out, [0.5 / s, 1] with s the scale still to go.
        relative_to: the size that the factor multiplies: the `current` one, or the final low-quality one (`lq`).
        modes: interpolations, all equally likely; one is drawn also for `keep`, where it matters only with `lq`.
        sampling: the step of `linear` and `cubic` is the ratio of the whole `sizes`, or 1 / `factor` (Real-ESRGAN's
            first resize; a factor of the current size only).
        clip: whether to cut what cubic interpolation throws beyond [0, 1].

    Sides are cut to whole pixels, and at least 1.
    """

    def __init__(
        self,
        kinds: Weights = {"up": 0.2, "down": 0.7, "keep": 0.1},  # noqa: B006 - never written to
        up_range: PositiveRange = RangeSchedule.fixed(1, 2),  # noqa: B008 - never written to
        down_range: PositiveRange | None = None,
        relative_to: Literal["current", "lq"] = "current",
        modes: tuple[Interpolation, ...] = MODES,
        sampling: Literal["sizes", "factor"] = "sizes",
        clip: bool = True,
    ) -> None:
        if unknown := set(kinds) - {"up", "down", "keep"}:
            raise ValueError(f"kinds: found {sorted(unknown)}, expected up, down, keep")
        if sampling == "factor" and relative_to == "lq":
            raise ValueError("sampling: `factor` is that of the current size, so it does not go with relative_to: lq")
        self.kinds, self.up_range, self.down_range = kinds, up_range, down_range
        self.relative_to, self.modes, self.sampling, self.clip = relative_to, modes, sampling, clip

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        rng = state.decisions or rng
        kind = str(rng.choice(list(self.kinds), p=list(self.kinds.values())))
        factor = 1.0
        if kind == "up":
            factor = float(rng.uniform(*self.up_range.at(state.iteration)))
        elif kind == "down":
            down = (0.5 / state.factor, 1) if self.down_range is None else self.down_range.at(state.iteration)
            factor = float(rng.uniform(*down))
        height, width = state.size if self.relative_to == "current" else state.lq_size
        state.size = (max(1, int(factor * height)), max(1, int(factor * width)))
        drawn: Drawn = {"kind": kind, "size": list(state.size), "mode": draw_mode(rng, self.modes)}
        exact = self.sampling == "factor" and factor * min(height, width) >= 1
        return {**drawn, "factor": factor} if exact else drawn

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        return resize_drawn(images, drawn, self.clip)


@STEPS.register("resize_to_lq")
class ResizeToLq(Step):
    """Resizes to the low-quality size, whatever came before, with a random interpolation; clipped unless told not."""

    def __init__(self, modes: tuple[Interpolation, ...] = MODES, clip: bool = True) -> None:
        self.modes, self.clip = modes, clip

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        state.size = state.lq_size
        return {"size": list(state.size), "mode": draw_mode(state.decisions or rng, self.modes)}

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        return resize_drawn(images, drawn, self.clip)


@STEPS.register("matlab_bicubic")
class MatlabBicubic(Step):
    """MATLAB's antialiased bicubic down to the low-quality size, clipped, and rounded to 8 bits as files are.

    `clip: false` goes with `rounding: none`. `border: replicate` goes on with the edge pixel, as DASR's released code.
    """

    def __init__(
        self, rounding: Literal["8bit", "none"] = "8bit", clip: bool = True, border: Border = "symmetric"
    ) -> None:
        if rounding == "8bit" and not clip:
            raise ValueError("clip: found false with 8-bit rounding, which clips; expected `rounding: none` beside it")
        self.rounding, self.clip = rounding, clip
        self.border: Border = border

    def sample(self, rng: np.random.Generator, state: State) -> Drawn:
        state.size = state.lq_size
        return {"size": list(state.size), "mode": "matlab"}

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        result = resize_drawn(images, drawn, self.clip, self.border)
        return round_to_8_bits(result) if self.rounding == "8bit" else result
