"""Every registered metric against the `Metric` protocol, and the measuring protocols."""

import math
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import skimage.data
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from data.sources.photos import Photos
from utils.metrics import METRICS, Metric
from utils.metrics.niqe import fit_model, luma
from utils.metrics.protocol import PROTOCOLS, Protocol, prepare

NAMES = METRICS.names()

Build = Callable[[str], Metric]


@pytest.fixture(scope="module")
def niqe_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model file, of the validation photographs."""
    photos, path = Photos("validation"), tmp_path_factory.mktemp("niqe") / "model.npz"
    fit_model([luma(photos.read(i).astype(np.float64)) for i in range(len(photos))], sharpness=0)[0].save(path)
    return str(path)


class _Distance(torch.nn.Module):
    """Stands in for a trained network."""

    metric_mode, lower_better = "FR", True

    def forward(self, sr: Tensor, gt: Tensor, **_: Any) -> Tensor:
        return (sr - gt).abs().mean()


@pytest.fixture
def build(niqe_model: str, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Builds a metric by name, with what it needs: a file, or a package that is not among the dependencies."""
    for package in ("lpips", "pyiqa"):
        module = ModuleType(package)
        module.__dict__.update(list_models=lambda: ["any"], create_metric=lambda name, device: _Distance())
        module.__dict__.update(LPIPS=lambda net, verbose: _Distance())
        monkeypatch.setitem(sys.modules, package, module)
    options = {"niqe": {"model": niqe_model}, "pyiqa": {"name": "any"}}
    return lambda name: METRICS.build({"type": name, **options.get(name, {})}, device="cpu")


def _photo() -> np.ndarray:
    return skimage.data.astronaut()[:64, 180:264].astype(np.float64)


def _large() -> np.ndarray:
    """Large enough for every metric."""
    return skimage.data.astronaut()[:200, 100:400].astype(np.float64)


def _noisy(sigma: float, photo: np.ndarray | None = None) -> np.ndarray:
    photo = _photo() if photo is None else photo
    return (photo + np.random.default_rng(0).normal(0, sigma, photo.shape)).round().clip(0, 255)


def _seen(metric: Metric, image: np.ndarray) -> np.ndarray:
    """An image with channels that the metric takes."""
    return image if "rgb" in metric.channels else prepare(image.astype(np.uint8), Protocol("test", 0, "y"), 4)


@pytest.mark.parametrize("name", NAMES)
def test_orders_images_by_quality_and_leaves_them_alone(name: str, build: Build) -> None:
    metric = build(name)
    gt, values = _seen(metric, _large()), []
    for sigma in (2, 10, 40):
        sr = _seen(metric, _noisy(sigma, _large()))
        kept = sr.copy()
        value = metric(sr, gt if metric.needs_gt else None)
        assert isinstance(value, float) and math.isfinite(value)
        np.testing.assert_array_equal(sr, kept)
        values.append(value)
    assert values == sorted(values, reverse=metric.higher_is_better) and len(set(values)) == 3


@pytest.mark.parametrize("name", NAMES)
def test_is_best_for_identical_images(name: str, build: Build) -> None:
    metric = build(name)
    if metric.needs_gt:
        best, worse = metric(_photo(), _photo()), metric(_noisy(1), _photo())
        assert best > worse if metric.higher_is_better else best < worse


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("protocol", sorted(PROTOCOLS))
def test_measures_what_protocols_prepare(name: str, protocol: str, build: Build) -> None:
    metric = build(name)
    assert metric.channels and set(metric.channels) <= {"rgb", "y"}
    if PROTOCOLS[protocol].channels in metric.channels:
        pair = [prepare(image.astype(np.uint8), PROTOCOLS[protocol], 4) for image in (_noisy(10, _large()), _large())]
        assert math.isfinite(metric(pair[0], pair[1] if metric.needs_gt else None))


@pytest.mark.parametrize("name", NAMES)
def test_demands_equal_shapes(name: str, build: Build) -> None:
    metric = build(name)
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
    border = 3**protocol.power
    assert result.shape == (64 - 2 * border, 84 - 2 * border, 3 if protocol.channels == "rgb" else 1)
    np.testing.assert_array_equal(prepare(image / 255, protocol, 3), result)
    np.testing.assert_array_equal(prepare(np.float32(image) / 255, protocol, 3), result)
    assert name in str(protocol) and "scale" in str(protocol)
    if protocol.channels == "rgb":
        np.testing.assert_array_equal(result, image[border:-border, border:-border])


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
