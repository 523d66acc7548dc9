"""Every registered metric against the `Metric` protocol, and the measuring protocols."""

from __future__ import annotations

import math

import numpy as np
import pytest
import skimage.data
from skimage.metrics import structural_similarity

from utils.metrics import METRICS
from utils.metrics.protocol import PROTOCOLS, Protocol, prepare

NAMES = METRICS.names()


def _photo() -> np.ndarray:
    return skimage.data.astronaut()[:64, 180:264].astype(np.float64)


def _noisy(sigma: float) -> np.ndarray:
    photo = _photo()
    return (photo + np.random.default_rng(0).normal(0, sigma, photo.shape)).round().clip(0, 255)


@pytest.mark.parametrize("name", NAMES)
def test_orders_images_by_quality_and_leaves_them_alone(name: str) -> None:
    metric, gt = METRICS.build(name), _photo()
    values = []
    for sigma in (2, 10, 40):
        sr = _noisy(sigma)
        kept = sr.copy()
        value = metric(sr, gt if metric.needs_gt else None)
        assert isinstance(value, float) and math.isfinite(value)
        np.testing.assert_array_equal(sr, kept)
        values.append(value)
    assert values == sorted(values, reverse=metric.higher_is_better) and len(set(values)) == 3


@pytest.mark.parametrize("name", NAMES)
def test_is_best_for_identical_images(name: str) -> None:
    metric = METRICS.build(name)
    if metric.needs_gt:
        best, worse = metric(_photo(), _photo()), metric(_noisy(1), _photo())
        assert best > worse if metric.higher_is_better else best < worse


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("channels", ["rgb", "y"])
def test_measures_what_protocols_prepare(name: str, channels: str) -> None:
    metric = METRICS.build(name)
    protocol = Protocol("test", 4, "y" if channels == "y" else "rgb")
    sr, gt = (prepare(image.astype(np.uint8), protocol, 4) for image in (_noisy(10), _photo()))
    assert math.isfinite(metric(sr, gt if metric.needs_gt else None))


@pytest.mark.parametrize("name", NAMES)
def test_demands_equal_shapes(name: str) -> None:
    metric = METRICS.build(name)
    if metric.needs_gt:
        with pytest.raises(ValueError, match=r"\(64, 84, 3\) and \(64, 84, 1\)"):
            metric(_photo(), _photo()[..., :1])
        with pytest.raises(ValueError, match="there is none"):
            metric(_photo(), None)


def test_psnr_by_its_definition() -> None:
    psnr = METRICS.build("psnr")
    assert psnr(np.full((4, 5, 3), 10.0), np.full((4, 5, 3), 15.0)) == pytest.approx(20 * math.log10(255 / 5))
    assert psnr(_photo(), _photo()) == math.inf


def test_ssim_equals_scikit_image() -> None:
    expected = structural_similarity(
        _noisy(10),
        _photo(),
        data_range=255,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    assert METRICS.build("ssim")(_noisy(10), _photo()) == pytest.approx(expected, abs=1e-6)
    assert METRICS.build("ssim")(_photo(), _photo()) == pytest.approx(1)


def test_ssim_refuses_images_below_its_window() -> None:
    with pytest.raises(ValueError, match="at least 11x11"):
        METRICS.build("ssim")(np.zeros((10, 40, 3)), np.zeros((10, 40, 3)))


@pytest.mark.parametrize("name", sorted(PROTOCOLS))
def test_prepare(name: str) -> None:
    protocol, image = PROTOCOLS[name], _photo().astype(np.uint8)
    result = prepare(image, protocol, scale=3)
    assert result.dtype == np.float64 and result.flags.c_contiguous
    assert result.shape == (58, 78, 3 if protocol.channels == "rgb" else 1)
    np.testing.assert_array_equal(prepare(image / 255, protocol, 3), result)
    np.testing.assert_array_equal(prepare(np.float32(image) / 255, protocol, 3), result)
    assert name in str(protocol) and "scale" in str(protocol)
    if protocol.channels == "rgb":
        np.testing.assert_array_equal(result, image[3:-3, 3:-3])


def test_prepare_rounds_and_clips_floats() -> None:
    image = np.array([-0.2, 0.5 / 255, 1.5 / 255, 0.4, 1.7]).reshape(1, 5, 1).repeat(3, 2)
    result = prepare(image, Protocol("test", 0), 4)
    assert result[0, :, 0].tolist() == [0, 0, 2, 102, 255]


def test_prepare_without_border_keeps_every_pixel() -> None:
    assert prepare(_photo().astype(np.uint8), Protocol("test", 0), 4).shape == (64, 84, 3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((40, 40)), "expected \\(H, W, 3\\)"),
        (np.zeros((40, 40, 4)), "expected \\(H, W, 3\\)"),
        (np.zeros((40, 40, 3), np.int32), "expected uint8"),
        (np.zeros((8, 40, 3)), "border of 4"),
    ],
)
def test_prepare_refuses(image: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(image, PROTOCOLS["kair"], 4)
