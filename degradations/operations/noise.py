"""Noise fields. A plan holds the seed of each, so that a sample can be made again anywhere."""

from collections.abc import Sequence
from functools import lru_cache
from math import pi, sqrt
from typing import Literal

import cv2
import numpy as np
import torch
from scipy.special import gammaln, xlogy
from torch import Tensor

from degradations.operations.ragged import Ragged, column, mix_channels, on_device
from degradations.plan import Drawn
from utils.options.fields import RangeSchedule, Weights
from utils.seeding import draw_seed, random_bits, random_words, torch_generator


def normal_fields(images: Ragged, seeds: Sequence[int], planes: Sequence[int]) -> Tensor:
    """Draw standard normal fields (B, P, H, W), each from its own seed; image i uses the first `planes[i]` planes.

    On the CPU each has its own generator. On a device all are one expression: Box and Muller's, two values from the
    random bits of each pair of columns.
    """
    if images.one_by_one:
        each = zip(images.sizes, seeds, planes, strict=True)
        return Ragged.pack([torch.randn((n, h, w), generator=torch_generator(seed)) for (h, w), seed, n in each]).data
    return normal_fields_batched(images, seeds, max(planes))


def normal_fields_batched(images: Ragged, seeds: Sequence[int], planes: int) -> Tensor:
    """Do as `normal_fields` for all images at once."""
    height, width = images.data.shape[-2:]
    bits = random_bits(on_device(list(seeds), images.data.device), (planes, height, (width + 1) // 2))
    radius = (bits >> 32).bitwise_and_(_LOW_BITS).float().add_(0.5).mul_(2**-32).log_().mul_(-2).sqrt_()
    angle = bits.bitwise_and_(_LOW_BITS).float().mul_(2 * pi / 2**32)
    return torch.stack([angle.cos().mul_(radius), angle.sin_().mul_(radius)], -1).flatten(-2)[..., :width]


_LOW_BITS = 2**32 - 1


def poisson_counts(levels: Ragged, peaks: Tensor, seeds: Sequence[int], planes: Sequence[int], most: float) -> Tensor:
    """Draw Poisson counts (B, P, H, W) for rates level / 255 · peak, each from its own seed. Exactly 0 where 0.

    Levels (B, P, H, W) are uint8; of image i the first `planes[i]` planes are counted, as float32. `peaks`
    (B, 1, 1, 1) are at most `most`.
    """
    if levels.one_by_one:
        each = zip(levels.images(), peaks.flatten().tolist(), seeds, planes, strict=True)
        return Ragged.pack([_poisson_counts_one(image[:n], peak, seed) for image, peak, seed, n in each]).data
    return poisson_counts_batched(levels, peaks, seeds, most)


def _poisson_counts_one(levels: Tensor, peak: float, seed: int) -> Tensor:
    if peak not in _TABLED_PEAKS:
        return _poisson_counts_many(levels, peak, seed)
    first, cells = _alias_tables(int(peak))
    rows = levels.flatten().numpy()
    words, drawn = random_words(seed, len(rows)), np.empty(len(rows), np.uint8)
    places = np.empty((min(_PORTION, len(rows)), 2), np.uint8)  # two bytes are a row and one of its 256 cells
    for start in range(0, len(rows), _PORTION):
        row, word = rows[start : start + _PORTION], words[start : min(start + _PORTION, len(rows))]
        place = places[: len(row)]
        place[:, 0], place[:, 1] = word, row
        # All places exist; `clip` spares NumPy a buffer in which it looks whether they do.
        # Where a word lies below its cell's share, the lesser of both is the word itself, which ends in its own count.
        drawn[start : start + _PORTION] = np.minimum(word, cells.take(place.view("<u2")[:, 0], mode="clip"))
    counts = drawn.astype(np.float32)
    if first.any():
        counts += cv2.LUT(rows, first).ravel()
    return torch.from_numpy(counts).view(levels.shape)


_PORTION = 2**15
"""Pixels drawn at once, so that what is between stays in the cache."""

_TABLED_PEAKS = frozenset(2.0**k for k in range(9))
"""Peaks that are drawn by tables, ten times as fast: those of Real-ESRGAN."""


@lru_cache(maxsize=len(_TABLED_PEAKS))
def _alias_tables(peak: int) -> tuple[np.ndarray, np.ndarray]:
    """Return tables by which one random number gives a Poisson count for each 8-bit level (Walker 1977, "An efficient
    method for generating discrete random variables with general distributions").

    The 256 cells of a level are equally likely. A cell gives its own count for a share of all numbers, and another's
    otherwise.

    Returns:
        The count (256,) of the first cell of each level, float32; cells (256 · 256,), uint32: the share in units of
        2^-24 in the upper 24 bits, the cell of the other count in the lower 8.
    """
    rates = np.arange(256)[:, None] / 255 * peak
    first = (rates.round() - 128).clip(0)  # 128 on each side are 8 standard deviations at least
    counts = first + np.arange(256)
    masses = np.exp(xlogy(counts, rates) - rates - gammaln(counts + 1)) * 256
    shares, others = np.ones((256, 256)), np.tile(np.arange(256, dtype=np.uint32), (256, 1))
    rows = np.arange(256)
    for _ in range(255):  # the emptiest cell is filled from the fullest, and is done with
        low, high = masses.argmin(1), masses.argmax(1)
        left = masses[rows, low]
        open_rows = rows[left < 1]
        low, high, left = low[open_rows], high[open_rows], left[open_rows]
        shares[open_rows, low], others[open_rows, low] = left, high
        masses[open_rows, high] -= 1 - left
        masses[open_rows, low] = 1
    # A full cell, whose share has no room, has itself as the other.
    units = (shares * 2**24).round().clip(max=2**24 - 1).astype(np.uint32)
    return first[:, 0].astype(np.float32), ((units << 8) | others).ravel()


def _poisson_counts_many(levels: Tensor, peak: float, seed: int) -> Tensor:
    """Count the photons of any peak: many by the normal number that each pixel gets, few by torch.poisson.

    That alone takes five times as long.
    """
    generator = torch_generator(seed)
    normals, counts = torch.randn(levels.shape, generator=generator), torch.empty(levels.shape)
    rates = np.arange(256) * (peak / 255)
    whole, *coefficients = many_counts(rates.clip(_MANY)).astype(np.float32)
    for plane, normal, made in zip(levels, normals, counts, strict=True):  # each stays in the cache
        made.copy_(_looked_up(coefficients[-1], plane))
        for table in coefficients[-2::-1]:
            torch.addcmul(_looked_up(table, plane), made, normal, out=made)
        made.floor_().add_(_looked_up(whole, plane))
    few = torch.from_numpy(np.flatnonzero(levels.numpy() < (rates < _MANY).sum()))
    counts.view(-1)[few] = torch.poisson(levels.take(few) * (peak / 255), generator=generator)
    return counts


_MANY = 32.0
"""Least rate whose counts come from normal numbers: there one in 80,000 is another than by the exact inverse."""


def many_counts(rates: np.ndarray) -> np.ndarray:
    """Return the counts of rates (n,) as polynomials of a standard normal number z: (6, n).

    A count is whole + floor(c0 + c1 z + … + c4 z⁴); the rows are whole, c0 … c4. It is the expansion to the order of
    1 / rate of the inverse of Poisson's distribution function, at that of z (Giles 2016, "Approximation of the inverse
    Poisson cumulative distribution function", ACM TOMS 42). The rate's whole part stands aside for single precision.
    """
    whole, root = np.floor(rates), np.sqrt(rates)
    constant = rates - whole + 1 / 3 - 8 / (405 * rates)
    square = 1 / 6 + 7 / (810 * rates)
    return np.stack([whole, constant, root - 1 / (36 * root), square, -1 / (72 * root), 1 / (270 * rates)])


def _looked_up(table: np.ndarray, levels: Tensor) -> Tensor:
    """Return the values of a table (256,) of float32 at the levels of a plane (h, w)."""
    return torch.from_numpy(cv2.LUT(levels.numpy(), table))


def poisson_counts_batched(levels: Ragged, peaks: Tensor, seeds: Sequence[int], most: float) -> Tensor:
    """Do as `poisson_counts` for all images at once, by inverting the distribution functions, exact to 2^-32.

    An image has at most 256 rates. The distribution functions of all stand one after another in one table, row i with
    the numbers from i to i + 1, so that a single search finds the counts of all pixels.
    """
    batch, device = len(levels.sizes), levels.data.device
    rates = (torch.arange(256, device=device, dtype=torch.float64) / 255 * peaks.view(batch, 1)).view(-1, 1)
    spread = 9 * sqrt(most) + 20
    first = (rates - spread).clamp_(min=0).floor_()
    length = int(2 * spread) + 2
    counts = first + torch.arange(length, device=device)
    table = torch.xlogy(counts, rates).sub_(rates).sub_(torch.lgamma(counts + 1)).exp_().cumsum(1)
    table = table.mul_(2**32).long().clamp_(max=2**32)  # whole numbers, so that no row lacks precision
    table[:, -1] = 2**32
    starts = torch.arange(256 * batch, device=device)
    table += starts[:, None] << 32
    rows = levels.data.long().add_(starts[::256].view(batch, 1, 1, 1))
    drawn = random_bits(on_device(list(seeds), device), levels.data.shape[1:]).bitwise_and_(_LOW_BITS)
    places = torch.searchsorted(table.flatten(), drawn.add_(rows << 32), right=True)
    return places.sub_(rows * length).add_(first.long().take(rows)).float()


def one_plane(fields: Tensor, gray: Sequence[bool]) -> Tensor:
    """Copy the first plane of fields (B, P, H, W) that are gray to all their planes."""
    if fields.shape[1] == 1 or not any(gray):
        return fields
    return torch.where(column(gray, fields.device, torch.bool), fields[:, :1], fields)


KINDS: Weights = {"color": 0.4, "gray": 0.4, "correlated": 0.2}
"""How often noise is independent per channel, one plane for all channels, or correlated between channels."""


Levels = Literal["whole", "continuous"]


def check_noise(kinds: Weights, level_range: RangeSchedule, levels: Levels = "whole") -> None:
    """Raise ValueError for a kind of noise that does not exist, and for levels that would be cut to whole ones."""
    if unknown := set(kinds) - set(KINDS):
        raise ValueError(f"kinds: found {sorted(unknown)}, expected {', '.join(KINDS)}")
    if levels == "whole" and any(level % 1 for _, ends in level_range.points for level in ends):
        raise ValueError(f"level_range: found {level_range}, expected whole levels, or `levels: continuous` beside it")


def draw_noise(
    rng: np.random.Generator, level_range: tuple[float, float], kinds: Weights, levels: Levels = "whole"
) -> Drawn:
    """Draw kind, seed and strength of a noise field: a level in 8-bit units, or a covariance (see `gaussian_noise`)."""
    low, high = level_range
    level = int(rng.integers(int(low), int(high) + 1)) if levels == "whole" else float(rng.uniform(low, high))
    kind = str(rng.choice(list(kinds), p=list(kinds.values())))
    drawn: Drawn = {"kind": kind, "seed": draw_seed(rng)}
    if kind == "correlated":
        return {**drawn, "covariance": random_covariance(rng, high / 255).tolist()}
    return {**drawn, "level": level}


def drawn_noise(images: Ragged, drawn: Sequence[Drawn]) -> Tensor:
    """Return the noise (B, C or 1, H, W) that was drawn for each image, in [0, 1] units."""
    channels, device = images.data.shape[1], images.data.device
    gray = [d["kind"] == "gray" for d in drawn]
    fields = normal_fields(images, [d["seed"] for d in drawn], [1 if g else channels for g in gray])
    fields = one_plane(fields, gray)
    if any(d["kind"] == "correlated" for d in drawn):
        return mix_channels(on_device(np.stack([mixing(d) for d in drawn]), device, fields.dtype), fields)
    return fields * column([d["level"] / 255 for d in drawn], device)


def mixing(drawn: Drawn) -> np.ndarray:
    """Return the matrix (3, 3) that makes the drawn noise of independent standard normal channels."""
    if drawn["kind"] != "correlated":
        return np.eye(3) * (drawn["level"] / 255)
    values, vectors = np.linalg.eigh(np.asarray(drawn["covariance"]))
    return vectors * np.sqrt(np.clip(values, 0, None))


def random_covariance(rng: np.random.Generator, level: float) -> np.ndarray:
    """Draw a 3×3 channel covariance of the given strength."""
    # QR of a random matrix spans the same columns as KAIR's scipy.linalg.orth; the sign does not matter to MᵀDM.
    eigenvalues = rng.random(3)
    matrix = np.linalg.svd(rng.random((3, 3)))[0]
    return np.abs(level**2 * matrix.T @ np.diag(eigenvalues) @ matrix)
