"""Noise: that of devices is a function of seed and place alone, here on the CPU; both are distributed as promised."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from degradations import Ragged
from degradations.operations.noise import (
    _MANY,
    _alias_tables,
    many_counts,
    normal_fields,
    normal_fields_batched,
    poisson_counts,
    poisson_counts_batched,
)
from utils.seeding import _GOLDEN, random_bits


def test_bits_are_splitmix64s() -> None:
    """Vigna's published outputs for the seed 1234567."""
    seeds = [1234567, 1234567 + _GOLDEN]
    found = [int(bits) % 2**64 for bits in random_bits(torch.tensor(seeds), ())]
    assert found == [6457827717110365317, 3203168211198807973]


def of_devices(images: Ragged, seeds: list[int]) -> torch.Tensor:
    return normal_fields_batched(images, seeds, 3)


def of_the_cpu(images: Ragged, seeds: list[int]) -> torch.Tensor:
    return normal_fields(images, seeds, [3] * len(seeds))


@pytest.mark.parametrize("fields_of", [of_devices, of_the_cpu])
def test_normal_fields_are_normal(fields_of: Callable[[Ragged, list[int]], torch.Tensor]) -> None:
    fields = fields_of(Ragged.of(torch.zeros(4, 3, 200, 201)), [0, 1, 2, 2**61 + 5])
    assert fields.shape == (4, 3, 200, 201) and fields.dtype == torch.float32
    for field in fields:
        values = field.flatten().double().numpy()
        moments = [(values**k).mean() for k in (1, 2, 3, 4)]
        # Five standard errors: the variances of the first four powers are 1, 2, 15, 96.
        assert (np.abs(np.array(moments) - [0, 1, 0, 3]) < 5 * np.sqrt(np.array([1, 2, 15, 96]) / values.size)).all()
        assert stats.kstest(values, "norm").pvalue > 1e-3
        assert 3.9 < np.abs(values).max() < 6.7


def test_normal_fields_are_independent() -> None:
    """Of other seeds, channels, and neighbours in every direction; squares too, which share a radius in pairs."""
    fields = of_devices(Ragged.of(torch.zeros(3, 3, 200, 200)), [7, 8, 7 + 2**40]).double()
    pairs = [(fields[i], fields[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    pairs += [
        (fields[:, 0], fields[:, 1]),
        (fields[..., 1:], fields[..., :-1]),
        (fields[..., 1:, :], fields[..., :-1, :]),
    ]
    pairs += [(one.square(), other.square()) for one, other in pairs]
    for one, other in pairs:
        correlation = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]
        assert correlation.abs() < 5 / one.numel() ** 0.5


def test_fields_do_not_depend_on_batch_or_size() -> None:
    images = Ragged.pack([torch.rand(3, 20, 31), torch.rand(3, 33, 12)])
    images = images.levels()
    peaks = torch.tensor([40.0, 3000.0])[:, None, None, None]
    normal = normal_fields_batched(images, [5, 6], 3)
    counts = poisson_counts_batched(images, peaks, [5, 6], 3000)
    for i, image in enumerate(images.images()):
        one, (h, w) = Ragged.of(image[None]), image.shape[1:]
        assert torch.equal(normal_fields_batched(one, [5 + i], 1)[0, 0], normal[i, 0, :h, :w])
        found = poisson_counts_batched(one, peaks[i : i + 1], [5 + i], float(peaks[i]))
        assert torch.equal(found[0], counts[i, :, :h, :w])


@pytest.mark.parametrize("peak", [1.0, 7.3, 256.0, 10000.0])
def test_counts_are_poisson(peak: float) -> None:
    levels = torch.tensor([0, 1, 30, 255], dtype=torch.uint8)
    images = Ragged.of(levels[None, :, None, None].expand(1, 4, 200, 200))
    counts = poisson_counts_batched(images, torch.full((1, 1, 1, 1), peak), [3], peak)[0]
    assert not counts[0].any() and torch.equal(counts, counts.round())
    for level, found in zip(levels[1:].tolist(), counts[1:].flatten(1).numpy(), strict=True):
        law = stats.poisson(level / 255 * peak)
        bounds = np.unique(law.ppf(np.linspace(0.01, 0.99, 30)))
        expected = np.diff([0, *law.cdf(bounds), 1]) * found.size
        seen = np.histogram(found, [-1, *bounds + 0.5, np.inf])[0]
        distance = ((seen - expected) ** 2 / np.maximum(expected, 5)).sum()
        assert distance < stats.chi2.ppf(0.9999, len(bounds)), (level, distance)


@pytest.mark.parametrize("peak", [1, 8, 256])
def test_tables_of_the_cpu_hold_poissons_law(peak: int) -> None:
    """Exactly: the probability of each count, summed over the cells that give it."""
    first, cells = _alias_tables(peak)
    cells = cells.reshape(256, 256)
    share, others, levels = (cells >> 8) / 2**24, cells & 255, np.arange(256)[:, None]
    law = share / 256
    np.add.at(law, (np.broadcast_to(levels, others.shape), others), (1 - share) / 256)
    expected = stats.poisson.pmf(first[:, None] + np.arange(256), levels / 255 * peak)
    assert np.abs(law - expected).max() < 1e-9
    assert np.abs(expected.sum(1) - 1).max() < 1e-11, "no count that could happen is left out"


@pytest.mark.parametrize("rate", [_MANY, 33.7, 100.0, 1000.0, 10000.0])
def test_many_counts_of_the_cpu_hold_poissons_law(rate: float) -> None:
    """But for one pixel in 80,000, of higher rates fewer: the probability of each count, between two places."""
    whole, *coefficients = many_counts(np.array([rate]))
    normal = np.linspace(-9, 9, 400_001)
    places = whole + np.polynomial.polynomial.polyval(normal, np.ravel(coefficients))
    assert (np.diff(places) > 0).all() and places[normal > -6][0] > 0, "single precision knows none beyond 6"
    counts = np.arange(max(0, int(rate - 9 * rate**0.5)), int(rate + 10 * rate**0.5) + 9)
    law = np.diff(stats.norm.cdf(np.interp(counts, places, normal)), append=1)
    assert np.abs(law - stats.poisson.pmf(counts, rate)).sum() / 2 < 1.25e-5 * (_MANY / rate) ** 1.5 + 1e-9


@pytest.mark.parametrize("peak", [4.0, 256.0, 100.5, 7000.0])
def test_counts_of_the_cpu_are_drawn_from_their_tables(peak: float) -> None:
    levels = torch.tensor([0, 1, 60, 128, 255], dtype=torch.uint8)
    images = Ragged.of(levels[None, :, None, None].expand(1, 5, 200, 200).contiguous())
    counts = poisson_counts(images, torch.full((1, 1, 1, 1), peak), [3], [5], peak)[0]
    assert torch.equal(counts, poisson_counts(images, torch.full((1, 1, 1, 1), peak), [3], [5], peak)[0])
    assert not counts[0].any() and torch.equal(counts, counts.round())
    rates = levels[1:].double() / 255 * peak
    deviations = counts[1:].double().mean((1, 2)) - rates
    assert (deviations.abs() < 5 * (rates / 200**2).sqrt()).all()
    spread = counts[1:].double().var((1, 2))
    assert ((spread / rates - 1).abs() < 5 * ((2 + 1 / rates) / 200**2).sqrt()).all()
