"""Colours that transparent pixels hide: they neither leak nor get lost."""

from typing import Any

import cv2
import numpy as np
import pytest

from models.restoring.files import restore_array
from models.restoring.generator import bicubic_generator
from models.restoring.restorer import Restorer
from models.restoring.transparency import REACH, filled_from_within


def disc(dtype: type, side: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """A white disc with a soft rim on transparent, whose hidden colour is black."""
    drawn = cv2.circle(np.zeros((side * 8, side * 8), np.uint8), (side * 4, side * 4), side * 3, 255, -1)
    alpha = cv2.resize(drawn, (side, side), interpolation=cv2.INTER_AREA).astype(dtype) * (np.iinfo(dtype).max // 255)
    image = np.zeros((side, side, 3), dtype)
    image[alpha > 0] = np.iinfo(dtype).max
    return image, alpha


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("alpha_by", ["resize", "network"])
@pytest.mark.parametrize("outscale", [None, 2.5, 0.5])
@pytest.mark.parametrize("gray", [False, True])
def test_a_white_disc_has_no_dark_rim(dtype: type, alpha_by: Any, outscale: float | None, gray: bool) -> None:  # noqa: ANN401
    result = restore_array(Restorer(bicubic_generator(4)), *disc(dtype), gray, alpha_by, outscale)
    opacity = result[..., -1:] / np.iinfo(dtype).max
    over_white = result[..., :-1] * opacity + np.iinfo(dtype).max * (1 - opacity)
    assert over_white.min() / np.iinfo(dtype).max * 255 > 254.9


def test_at_scale_1_everything_comes_back() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    alpha = rng.integers(0, 256, (40, 50), dtype=np.uint8)
    alpha[5:30, 10:40] = 0
    np.testing.assert_array_equal(
        restore_array(Restorer(bicubic_generator(1)), image, alpha), np.dstack([image, alpha])
    )


def test_colours_hidden_far_away_are_restored() -> None:
    image = np.random.default_rng(1).integers(0, 256, (20, 200, 3), dtype=np.uint8)
    alpha = np.zeros((20, 200), np.uint8)
    alpha[:, :4] = 255
    filled = filled_from_within(image, alpha)
    np.testing.assert_array_equal(filled[:, 4 + REACH :], image[:, 4 + REACH :])
    np.testing.assert_array_equal(filled[:, 10], image[:, 3])
    apply = Restorer(bicubic_generator(2))
    far = np.s_[:, 2 * (4 + REACH + 8) :, :3]
    np.testing.assert_array_equal(restore_array(apply, image, alpha)[far], restore_array(apply, image)[far])
