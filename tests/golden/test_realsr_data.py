"""RealSR's preparation of data against values from running Tencent's released code."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from data.prepare.hr import Trimmed
from data.prepare.noise import tiles_of
from data.prepare.section import NoisePatches
from tests.helpers import GOLDEN
from utils.images.resize import imresize

NOISE = np.load(GOLDEN / "realsr" / "collect_noise.npz")
BICUBIC = np.load(GOLDEN / "realsr" / "bicubic_preprocess.npz")
RELEASED = NoisePatches(size=int(NOISE["sp"]), released=True)


@pytest.mark.parametrize(("name", "low"), [("df2k", 0), ("dped", 50)])
def test_flat_tiles(name: str, low: float) -> None:
    tiles = tiles_of(replace(RELEASED, mean_range=(low, 255)), NOISE["im_u8"])
    found = [[tile.top, tile.left, tile.variance, tile.mean] for tile in tiles]
    np.testing.assert_allclose(found, NOISE["table_i_j_var_mean_f64"], atol=1e-9)
    accepted = [[tile.top, tile.left] for tile in tiles if not tile.flaw]
    np.testing.assert_array_equal(accepted, NOISE[f"accepted_{name}"])


def test_the_last_tiles_are_not_lost() -> None:
    size = RELEASED.side
    image = NOISE["im_u8"][: 4 * size, : 5 * size]
    assert len(tiles_of(RELEASED, image)) == 3 * 4
    assert len(tiles_of(replace(RELEASED, released=False), image)) == 4 * 5
    assert tiles_of(RELEASED, image[:size, :size]) == []


@pytest.mark.parametrize("name", ["rand", "smooth"])
def test_cleaned_sources(name: str) -> None:
    image = BICUBIC[f"{name}_in_u8"]
    ((suffix, released),) = Trimmed(2, 4, released=True).outputs(image)
    assert suffix == ""
    difference = released.astype(int) - BICUBIC[f"{name}_hr_u8"]
    assert (
        np.abs(difference).max() <= 1 and np.mean(difference != 0) < 1e-3
    )  # a value on a whole level falls either way
    ((_, rounded),) = Trimmed(2, 4).outputs(image)
    np.testing.assert_allclose(rounded, 255 * BICUBIC[f"{name}_cut"].transpose(1, 2, 0), atol=0.5 + 1e-3)


def test_resizes() -> None:
    """Of floats, to a half and a quarter, clamped and not."""
    for factor in (0.5, 0.25):
        found = imresize(torch.from_numpy(BICUBIC["f_in"]), factor).numpy()
        name = f"x{factor}".replace(".", "_")
        np.testing.assert_allclose(found.clip(0, 1), BICUBIC[f"f_clamped_{name}"], atol=1e-5)
        np.testing.assert_allclose(found.transpose(1, 2, 0), BICUBIC[f"f_unclamped_hwc_{name}"], atol=1e-5)
