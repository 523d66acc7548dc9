"""Camera noise: an image is taken back to a sensor's raw values, gets their noise, and is developed again.

BSRGAN's paper (Sec. 3.3, "processed camera sensor noise") describes it; its released code lacks it. This is our own
making. The chain, backwards and then forwards: tone curve, exposure, white balance, colour matrix, Bayer mosaic.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from degradations import STEPS, Drawn, Ragged, Size, State, Step
from degradations.operations import noise
from degradations.operations.ragged import column, mix_channels, on_device
from utils.options.fields import NonNegative, PositiveRange, RangeSchedule
from utils.seeding import draw_seed

Phase = Literal["rggb", "grbg", "gbrg", "bggr"]
PHASES: tuple[Phase, ...] = ("rggb", "grbg", "gbrg", "bggr")
"""The colours of a sensor's first four pixels, row by row."""

_XYZ_TO_CAMERA = (
    # The four of Brooks et al., "Unprocessing Images for Learned Raw Denoising", CVPR 2019
    ((1.0234, -0.2969, -0.2266), (-0.5625, 1.6328, -0.0469), (-0.0703, 0.2188, 0.6406)),
    ((0.4913, -0.0541, -0.0202), (-0.6130, 1.3513, 0.2906), (-0.1564, 0.2151, 0.7183)),
    ((0.8380, -0.2630, -0.0639), (-0.2887, 1.0725, 0.2496), (-0.0627, 0.1427, 0.5438)),
    ((0.6596, -0.2079, -0.0562), (-0.4782, 1.3016, 0.1933), (-0.0970, 0.1581, 0.5181)),
    # Adobe's published matrices of the Nikon D3 and D5000, Canon EOS 5D Mark II, Sony DSLR-A900
    ((0.8139, -0.2171, -0.0663), (-0.8747, 1.6541, 0.2295), (-0.1925, 0.2008, 0.8093)),
    ((0.7309, -0.1403, -0.0519), (-0.8474, 1.6008, 0.2622), (-0.2433, 0.2826, 0.8064)),
    ((0.4716, 0.0603, -0.0830), (-0.7798, 1.5474, 0.2480), (-0.1496, 0.1937, 0.6651)),
    ((0.5209, -0.1072, -0.0397), (-0.8845, 1.6120, 0.2919), (-0.1618, 0.1803, 0.8654)),
)
_SRGB_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))


@STEPS.register("isp")
class CameraNoise(Step):
    """Add noise of a camera's sensor, shaped by the camera's own processing (BSRGAN, Sec. 3.3). Clipped.

    Raw noise is Gaussian with variance shot · signal + read, log-linear as in Brooks et al. 2019 (Sec. 3.1): shot is
    log-uniform, log read normal around 2.18 log shot + 1.20 with standard deviation 0.26. The colour matrix is a
    drawn mixture of published ones, brought to map white to white. Demosaicing is Malvar, He and Cutler's (2004).

    Args:
        shot_range: variance of the raw noise per unit of signal.
        red_gain_range, blue_gain_range: white balance relative to green.
        exposure_range: how many times brighter than the raw the developed image is. The least value that keeps
            every colour below the sensor's saturation is used where the drawn one is lower.
        gamma_range: exponent 1 / γ of the tone curve's power part; `toe_range`: where it becomes linear near black.
        waves: bounds of the curve's departures from a power law, see `develop_tone`; their sum must be below 1.
        phases: Bayer phases, all equally likely.
    """

    def __init__(
        self,
        shot_range: PositiveRange = RangeSchedule.fixed(1e-4, 0.012),  # noqa: B008 - never written to
        red_gain_range: PositiveRange = RangeSchedule.fixed(1.2, 2.4),  # noqa: B008
        blue_gain_range: PositiveRange = RangeSchedule.fixed(1.2, 2.4),  # noqa: B008
        exposure_range: PositiveRange = RangeSchedule.fixed(2**-0.1, 2**0.3),  # noqa: B008
        gamma_range: PositiveRange = RangeSchedule.fixed(1.6, 2.6),  # noqa: B008
        toe_range: PositiveRange = RangeSchedule.fixed(0.001, 0.02),  # noqa: B008
        waves: tuple[NonNegative, ...] = (0.35, 0.35, 0.1),
        phases: tuple[Phase, ...] = PHASES,
    ) -> None:
        if sum(waves) >= 1:
            raise ValueError(f"waves sum to {sum(waves):g}, expected less than 1, or the tone curve may fall")
        if not phases:
            raise ValueError("phases is empty, expected some of rggb, grbg, gbrg, bggr")
        self.shot_range, self.exposure_range = shot_range, exposure_range
        self.red_gain_range, self.blue_gain_range = red_gain_range, blue_gain_range
        self.gamma_range, self.toe_range, self.waves, self.phases = gamma_range, toe_range, waves, phases

    def sample(self, rng: np.random.Generator, state: State) -> Drawn | None:
        if min(state.size) < 2:
            return None  # a mosaic one pixel wide lacks a colour

        def log_uniform(values: RangeSchedule) -> float:
            return float(np.exp(rng.uniform(*np.log(values.at(state.iteration)))))

        matrix = draw_matrix(rng)
        gains = [rng.uniform(*self.red_gain_range.at(state.iteration)), 1.0]
        gains.append(rng.uniform(*self.blue_gain_range.at(state.iteration)))
        exposure = rng.uniform(*self.exposure_range.at(state.iteration))
        brightest = (matrix.clip(0).sum(1) / gains).max()
        shot = log_uniform(self.shot_range)
        return {
            "gamma": float(rng.uniform(*self.gamma_range.at(state.iteration))),
            "toe": log_uniform(self.toe_range),
            "waves": [float(rng.uniform(-bound, bound)) for bound in self.waves],
            "matrix": matrix.tolist(),
            "gains": [float(gain) for gain in gains],
            "exposure": float(max(exposure, brightest)),
            "phase": self.phases[int(rng.integers(len(self.phases)))],
            "shot": shot,
            "read": float(np.exp(2.18 * np.log(shot) + 1.20 + rng.normal(0, 0.26))),
            "seed": draw_seed(rng),
        }

    def apply(self, images: Ragged, drawn: Sequence[Drawn]) -> Ragged:
        device = images.data.device
        to_raw, to_linear = (on_device(m, device) for m in _colour_matrices(drawn))
        phases = [d["phase"] for d in drawn]
        raw = mosaic(Ragged(mix_channels(to_raw, undo_tone(images.data, drawn)), images.sizes), phases)
        fields = noise.normal_fields(raw, [d["seed"] for d in drawn], [1] * len(drawn))
        shot, read = (column([d[key] for d in drawn], device) for key in ("shot", "read"))
        deviation = raw.data.clamp(min=0).mul_(shot).add_(read).sqrt_()
        # Saturated at the top; at the bottom a sensor's black level keeps what falls below zero.
        noisy = deviation.mul_(fields).add_(raw.data).clamp_(max=1)
        # Balanced before it is demosaicked, as raw converters do: the filters take the colours' edges for equally high.
        for i, place in ((0, slice(0, None, 2)), (2, slice(1, None, 2))):
            noisy[..., place, place] *= column([d["gains"][i] for d in drawn], device)
        developed = mix_channels(to_linear, demosaic(noisy, phases, images.sizes).data)
        return Ragged(develop_tone(developed.clamp_(0, 1), drawn), images.sizes)


# --- colour ----------------------------------------------------------------------------------------------------------


def draw_matrix(rng: np.random.Generator) -> np.ndarray:
    """Draw a mixture (3, 3) of published linear sRGB → camera matrices, each row summing to 1."""
    weights = rng.dirichlet(np.full(len(_XYZ_TO_CAMERA), 0.5))
    matrix = np.einsum("n,nij->ij", weights, np.array(_XYZ_TO_CAMERA)) @ np.array(_SRGB_TO_XYZ)
    return matrix / matrix.sum(1, keepdims=True)


def _colour_matrices(drawn: Sequence[Drawn]) -> tuple[np.ndarray, np.ndarray]:
    """Return matrices (B, 3, 3): linear sRGB → raw, gains and exposure undone, and balanced raw → linear sRGB."""
    camera = np.stack([np.array(d["matrix"]) / d["exposure"] for d in drawn])
    gains = np.array([d["gains"] for d in drawn])[:, :, None]
    return (camera / gains).astype(np.float32), np.linalg.inv(camera).astype(np.float32)


# --- tone ------------------------------------------------------------------------------------------------------------

_KNOTS = 1024


def develop_tone(linear: Tensor, drawn: Sequence[Drawn]) -> Tensor:
    """Apply the camera's tone curve to linear values (B, 3, H, W) in [0, 1]: from 0 to 1, rising everywhere.

    p(x) = ((x + t)^(1/γ) - t^(1/γ)) / ((1 + t)^(1/γ) - t^(1/γ)) with toe t, then p + Σ c_k sin(kπp) / (kπ). Measured
    curves differ mainly by a few such slow waves (Grossberg and Nayar, "What is the Space of Camera Response
    Functions?", CVPR 2003: a mean and a few principal components hold nearly all of 201 curves): c_1 brightens
    or darkens, c_2 changes contrast. Σ |c_k| < 1 keeps the slope above zero.
    """
    device = linear.device
    inverse_gamma, toe = column([1 / d["gamma"] for d in drawn], device), column([d["toe"] for d in drawn], device)
    black = toe**inverse_gamma
    # The power by its logarithm, in a third of the time of `pow`.
    power = (linear + toe).log_().mul_(inverse_gamma).exp_().sub_(black).div_((1 + toe) ** inverse_gamma - black)
    waves = on_device([d["waves"] for d in drawn], device)
    result = power.clone()
    for k, c in enumerate(waves.unbind(1), 1):
        result.addcmul_((power * (k * np.pi)).sin_(), c[:, None, None, None] / (k * np.pi))
    return result.clamp_(0, 1)


def undo_tone(data: Tensor, drawn: Sequence[Drawn]) -> Tensor:
    """Invert `develop_tone`, by linear interpolation in a table; values are clipped to [0, 1] first."""
    tables = np.stack([_undo_table(d) for d in drawn])
    at = data.clamp(0, 1).mul_(_KNOTS - 1).flatten(1)
    low = at.int().clamp_(0, _KNOTS - 2)  # both ends: padding may hold anything, NaN too
    places = (low + torch.arange(len(drawn), device=data.device, dtype=torch.int)[:, None] * _KNOTS).flatten()
    start, slope = (
        on_device(np.stack([tables, np.diff(tables, append=tables[:, -1:])]), data.device).flatten(1).unbind()
    )
    risen = (at - low).flatten().mul_(slope.index_select(0, places))
    return risen.add_(start.index_select(0, places)).view(data.shape)


def _undo_table(drawn: Drawn) -> np.ndarray:
    """Return `undo_tone` at equally spaced values: (knots,) float32."""
    dense = np.linspace(0, 1, 2 * _KNOTS)
    k = np.arange(1, len(drawn["waves"]) + 1)
    waved = dense + np.sin(dense[:, None] * k * np.pi) @ (np.array(drawn["waves"]) / (k * np.pi))
    power = np.interp(np.linspace(0, 1, _KNOTS), waved, dense)
    black, white = drawn["toe"] ** (1 / drawn["gamma"]), (1 + drawn["toe"]) ** (1 / drawn["gamma"])
    return ((power * (white - black) + black) ** drawn["gamma"] - drawn["toe"]).clip(0, 1).astype(np.float32)


# --- mosaic ----------------------------------------------------------------------------------------------------------


def red_place(phase: Phase) -> tuple[int, int]:
    """Return row and column, each 0 or 1, of the first red pixel."""
    return divmod(phase.index("r"), 2)


def mosaic(images: Ragged, phases: Sequence[Phase]) -> Ragged:
    """Return what a Bayer sensor sees of images (B, 3, H, W), one colour a pixel: (B, 1, H + 4 to 6, W + 4 to 6).

    The sensor is larger than the image, which stands 2 pixels from its upper left, or 3 where that is needed for its
    phase: so every sensor starts with red, and demosaicing needs no border of its own. Around the image its values
    go on linearly; repeated or mirrored, they would leave colours at the borders.
    """
    reds = [red_place(phase) for phase in phases]

    def seen(image: Tensor, i: int) -> Tensor:
        for axis in (0, 1):
            before, length = 2 + reds[i][axis], image.shape[1 + axis]
            after = 2 + (length + reds[i][axis]) % 2  # whole tiles
            image = _continued(image, before, after, 1 + axis)
        plane = image[1:2].clone()
        plane[:, 0::2, 0::2] = image[0:1, 0::2, 0::2]
        plane[:, 1::2, 1::2] = image[2:3, 1::2, 1::2]
        return plane

    return images.per_image(seen)


def _continued(image: Tensor, before: int, after: int, dim: int) -> Tensor:
    """Extend an image before and after along one axis, mirrored through the edge pixel in place and value."""
    last = image.shape[dim] - 1
    parts = [image]
    for edge, count, direction in ((0, before, 1), (last, after, -1)):
        distance = [min(k + 1, last) for k in range(count)]
        inner = [edge + direction * k for k in (reversed(distance) if edge == 0 else distance)]
        beyond = 2 * image.narrow(dim, edge, 1) - torch.cat([image.narrow(dim, at, 1) for at in inner], dim)
        parts = [beyond, *parts] if direction == 1 else [*parts, beyond]
    return torch.cat(parts, dim)


def demosaic(seen: Tensor, phases: Sequence[Phase], sizes: Sequence[Size]) -> Ragged:
    """Return all three colours, of the images' own sizes, from what `mosaic` made of them.

    By Malvar, He and Cutler's gradient-corrected linear filters (ICASSP 2004), which follow edges through the colour
    that a pixel has.
    """
    # As every sensor starts with red, one convolution by whole tiles serves all phases.
    # In float64 on GPUs, which by default convolve float32 numbers with ten bits of mantissa.
    work = torch.float64 if seen.is_cuda else seen.dtype
    filters = _malvar_filters().to(seen.device, work, non_blocking=True)
    tiles = F.conv2d(seen.to(work), filters, stride=2).to(seen.dtype).unflatten(1, (3, 2, 2))
    # On a CPU PyTorch's pixel_shuffle takes more than twice as long.
    full = tiles.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)
    places = [red_place(phase) for phase in phases]
    return Ragged.pack(
        [
            image[:, top : top + height, left : left + width]
            for image, (top, left), (height, width) in zip(full, places, sizes, strict=True)
        ]
    )


@lru_cache(maxsize=1)
def _malvar_filters() -> Tensor:
    """Return filters (12, 1, 6, 6) for red, green and blue at the four pixels of a tile that starts with red.

    They stand in pixel-shuffle order. Each 5×5 filter stands at its pixel's place in the 6×6 window around the tile.
    """
    at_same = np.zeros((5, 5))
    at_same[2, 2] = 8
    green = np.array([[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]])
    beside = np.array(  # the wanted colour lies left and right
        [[0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0]]
    )
    across = np.array(  # the wanted colour lies on the diagonals
        [[0, 0, -1.5, 0, 0], [0, 2, 0, 2, 0], [-1.5, 0, 6, 0, -1.5], [0, 2, 0, 2, 0], [0, 0, -1.5, 0, 0]]
    )
    tile = (  # at the pixels R G / G B
        (at_same, beside, beside.T, across),
        (green, at_same, at_same, green),
        (across, beside.T, beside, at_same),
    )
    filters = np.zeros((3, 2, 2, 6, 6), np.float32)
    for colour, kernels in enumerate(tile):
        for pixel, kernel in enumerate(kernels):
            top, left = divmod(pixel, 2)
            filters[colour, top, left, top : top + 5, left : left + 5] = kernel / 8
    with torch.inference_mode(False):  # kept, and a tensor born under inference mode could not be trained through
        return torch.from_numpy(filters.reshape(12, 1, 6, 6))
