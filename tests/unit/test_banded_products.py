"""Products with bands are those with the whole matrix, and long rows blur like their squares."""

from typing import get_args

import numpy as np
import pytest
import torch

from degradations import Ragged
from degradations.kernels.families import gaussian_row
from degradations.operations.bands import Bands, map_axes
from degradations.operations.filters import Border, convolve, convolve_batched
from degradations.operations.ragged import Size


@pytest.mark.parametrize(("inputs", "outputs", "taps"), [(100, 150, 4), (130, 20, 9), (3, 97, 5), (60, 1, 60)])
def test_bands_are_the_matrix(inputs: int, outputs: int, taps: int) -> None:
    """Also where a place occurs twice among the taps of an output."""
    rng = np.random.default_rng(0)
    centre = np.linspace(0, inputs - 1, outputs).round().astype(int)[:, None]
    places = (centre + rng.integers(-taps, taps + 1, (outputs, taps))).clip(0, inputs - 1)
    weights = rng.random((outputs, taps))
    matrix = np.zeros((outputs, inputs))
    np.add.at(matrix, (np.arange(outputs)[:, None], places), weights)
    image = rng.random((2, inputs, inputs))
    bands = Bands.of(places, weights, inputs)
    found = map_axes(torch.from_numpy(image).float(), bands, bands).numpy()
    assert np.abs(found - matrix @ image @ matrix.T).max() < 1e-4 * taps


@pytest.mark.parametrize("border", get_args(Border))
@pytest.mark.parametrize(("size", "taps"), [((40, 90), 51), ((200, 21), 51), ((27, 28), 51), ((190, 220), 15)])
def test_a_long_row_blurs_like_its_square(border: Border, size: Size, taps: int) -> None:
    row = gaussian_row(taps, taps / 6) + np.linspace(0, 0.01, taps)  # not symmetric, which shows that it is flipped
    image = Ragged.of(torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)))
    found, expected = convolve(image, [row], border).data, convolve_batched(image, [row], border).data
    assert (found - expected).abs().max() < 2e-6
