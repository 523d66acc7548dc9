"""Traces that blur, noise, resizing and compression leave in an image, told apart from what it shows where possible.

Each is one number of one window of an image, of a scale on which equal steps matter equally. They are estimated alike
for photographs and for degraded images, so that what an estimator gets wrong it gets wrong for both.
"""

from collections.abc import Mapping

import cv2
import numpy as np
from scipy.fft import dctn

TRACES: Mapping[str, str] = {
    "noise": "noise level, log2 of 8-bit levels",
    "noise in the light": "in light over in dark places, log2",
    "noise correlation": "correlation of noise between neighbours",
    "noise colour": "noise of chroma over noise of luma, log2",
    "spectrum slope": "slope of the power spectrum",
    "fine detail": "power at the highest frequencies over middle ones, log10",
    "JPEG grid": "steps across 8x8 blocks over other steps, log2",
    "JPEG rounding": "DCT values off the grid over on it, log2",
    "edge width": "width of edges, log2 of pixels",
}
"""What is measured, and its unit."""
SMALLEST = 64
"""Pixels of a side of a window, from which on all traces can be measured."""

_BLOCK = 8
_FLAT = 0.15  # of all blocks: so many, the flattest, show noise
_LAPLACIAN = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]]) / 6  # of white noise it keeps the variance
_STRONGEST = 0.03  # of all pixels: edges
_SMOOTH = (1.0, 1.6)  # by so much gradients are smoothed, in pixels, to see how wide edges are
_TINY = 0.05  # levels; less noise is none


def traces(image: np.ndarray) -> np.ndarray:
    """Return the traces (n,), float64, of a window (H, W, 3), uint8 RGB, 64 pixels or more each side."""
    luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float64)
    chroma = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)[..., 1:].astype(np.float64)
    grid, rounding = jpeg(luma)
    return np.array([*noise(luma, chroma), *spectrum(luma), grid, rounding, edge_width(luma)])


def noise(luma: np.ndarray, chroma: np.ndarray) -> tuple[float, float, float, float]:
    """Return level, dependence on brightness, correlation and colour of the noise of (H, W) and (H, W, 2), in levels.

    The level is the median over the flattest blocks of what a difference of Laplacians leaves (Immerkær, CVIU 1996),
    which is blind to gradients; flat are those whose smoothed gradients are small, so that noise itself does not
    choose. Clipped blocks do not count. Dependence is that of light blocks over dark ones (Foi et al., TIP 2008).
    """
    smooth = cv2.GaussianBlur(luma, (0, 0), 2)
    gradient = np.hypot(cv2.Sobel(smooth, -1, 1, 0), cv2.Sobel(smooth, -1, 0, 1))
    left = cv2.filter2D(luma, -1, _LAPLACIAN)
    colour = cv2.filter2D(chroma, -1, _LAPLACIAN)
    rest = luma - smooth
    across, down = rest * np.roll(rest, -1, 1), rest * np.roll(rest, -1, 0)
    parts = [gradient, left**2, luma, rest**2, (across + down) / 2, (colour**2).mean(2)]
    activity, power, mean, own, shared, tint = (_blocks(part) for part in parts)
    usable = (mean > 6) & (mean < 249)
    usable = usable if usable.sum() >= 8 else np.ones_like(usable)
    limit = np.quantile(activity[usable], _FLAT)
    flat, fairly = usable & (activity <= limit), usable & (activity <= np.quantile(activity[usable], 3 * _FLAT))
    level = _level(power[flat])
    light = mean[fairly] > np.median(mean[fairly])
    bright = np.log2(_level(power[fairly][light]) / _level(power[fairly][~light])) if light.sum() > 0 else 0.0
    correlation = shared[flat].sum() / max(own[flat].sum(), flat.sum() * _TINY**2)
    return float(np.log2(level)), float(bright), float(correlation), float(np.log2(_level(tint[flat]) / level))


def _blocks(values: np.ndarray) -> np.ndarray:
    """Return the means of blocks of an array (H, W), in a row; the rim, where filters see a mirror, is left out."""
    inner = values[4:-4, 4:-4]
    rows, columns = (side // _BLOCK for side in inner.shape)
    return inner[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK).mean((1, 3)).ravel()


def _level(powers: np.ndarray) -> float:
    return float(np.sqrt(np.median(powers)) + _TINY) if powers.size else _TINY


def spectrum(luma: np.ndarray) -> tuple[float, float]:
    """Return the slope of log power by log frequency from 0.03 to 0.2 cycles per pixel (Field, JOSA A 1987; by Theil
    and Sen), and the power above 0.35 over that from 0.12 to 0.25. Rounding to 8 bits is added, so that none is 0."""
    window = np.outer(np.hanning(luma.shape[0]), np.hanning(luma.shape[1]))
    power = np.abs(np.fft.fft2((luma - luma.mean()) * window)) ** 2 / (window**2).sum() + 1 / 12
    fy, fx = np.fft.fftfreq(luma.shape[0])[:, None], np.fft.fftfreq(luma.shape[1])
    radius = np.hypot(fy, fx)
    edges = np.geomspace(0.03, 0.2, 11)
    rings = [(radius >= low) & (radius < high) for low, high in zip(edges[:-1], edges[1:], strict=True)]
    points = [(np.log(radius[ring].mean()), np.log(power[ring].mean())) for ring in rings if ring.any()]
    x, y = np.array(points).T
    first, second = np.triu_indices(len(x), 1)
    slope = np.median((y[second] - y[first]) / (x[second] - x[first]))
    fine = np.log10(power[(radius > 0.35) & (radius < 0.5)].mean() / power[(radius > 0.12) & (radius < 0.25)].mean())
    return float(slope), float(fine)


def jpeg(luma: np.ndarray) -> tuple[float, float]:
    """Return how strong a JPEG grid is, wherever it begins, and how few DCT values are left on it, beside others.

    Strength by steps across block borders less those beside them (Wang, Bovik and Evans, ICIP 2000); quantisation makes
    values 0 (Fan and de Queiroz, TIP 2003). Both are nearly 0 for an image that was not compressed last.
    """
    strengths, begins = [], []
    for axis in (0, 1):
        steps = np.abs(np.diff(luma, axis=axis))
        inner = np.swapaxes(steps, 0, axis)
        excess = np.minimum(inner[1:-1] - (inner[:-2] + inner[2:]) / 2, 20).mean(1)
        phases = np.array([excess[phase::_BLOCK].mean() for phase in range(_BLOCK)])
        strongest = int(phases.argmax())
        others = np.delete(phases, strongest)
        strengths.append((phases[strongest] - np.median(others)) / (steps.mean() + 0.5))
        begins.append((strongest + 2) % _BLOCK)  # step i + 1 lies before pixel i + 2
    left, beside = (_left(luma, [(b + shift) % _BLOCK for b in begins]) for shift in (0, 4))
    return float(np.log2(1 + max(0.0, float(np.mean(strengths))))), float(np.log2((beside + 0.01) / (left + 0.01)))


def _left(luma: np.ndarray, begins: list[int]) -> float:
    """Return the share of the DCT values of 8x8 blocks, from a row and a column on, that do not round to 0."""
    part = luma[begins[0] :, begins[1] :]
    rows, columns = (side // _BLOCK for side in part.shape)
    blocks = part[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK).swapaxes(1, 2)
    values = np.asarray(dctn(blocks - 128, axes=(2, 3), norm="ortho"))
    return float((np.abs(values) >= 0.7).mean())


def edge_width(luma: np.ndarray) -> float:
    """Return the log2 of the standard deviation in pixels of the blur of the strongest edges of (H, W), their median,
    0.4 pixels at least: what is sharper is as sharp as pixels allow.

    By how much a gradient falls when it is smoothed more (Zhuo and Sim, Pattern Recognition 2011): an edge of width s
    smoothed by a has a gradient in proportion to 1 / √(s² + a²).
    """
    less, more = (_gradient(luma, sigma) for sigma in _SMOOTH)
    strong = less >= np.quantile(less, 1 - _STRONGEST)
    ratio = (less[strong] / np.maximum(more[strong], 1e-6)) ** 2
    a, b = (sigma**2 for sigma in _SMOOTH)
    variance = (b - ratio * a) / np.maximum(ratio - 1, 1e-3) - 1 / 3  # of a difference over two pixels
    return float(0.5 * np.log2(np.clip(np.median(variance), 0.4**2, 8**2)))


def _gradient(luma: np.ndarray, sigma: float) -> np.ndarray:
    smooth = cv2.GaussianBlur(luma, (0, 0), sigma)
    down, across = np.gradient(smooth)
    return np.hypot(down, across)
