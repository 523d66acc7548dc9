"""NIQE: features against a plain version, the model of sharp photographs, what raises the number, the command line."""

import math
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.ndimage import convolve
from scipy.special import gamma

from data.sources.photos import Photos
from tests.helpers import ROOT
from tests.programs import call
from utils.images.colour import rgb2y
from utils.images.files import write_image
from utils.metrics import METRICS
from utils.metrics.niqe import NiqeModel, block_features, fit_asymmetric, fit_model, luma
from utils.metrics.protocol import PROTOCOLS, prepare
from utils.options.fields import OptionError


@cache
def photo(name: str) -> np.ndarray:
    photos = Photos("all")
    return next(photos.read(i) for i in range(len(photos)) if photos.name(i).endswith(f"{name}.png"))


@cache
def model() -> NiqeModel:
    """Of the training photographs but one; all blocks, since seven photographs have few sharp ones."""
    photos = Photos("train")
    names = [i for i in range(len(photos)) if not photos.name(i).endswith("astronaut.png")]
    return fit_model([luma(photos.read(i).astype(np.float64)) for i in names], sharpness=0)[0]


def measured(image: np.ndarray) -> float:
    return model().distance(block_features(luma(image.astype(np.float64)))[0])


# --- features --------------------------------------------------------------------------------------------------------


def plain_fit(values: np.ndarray) -> tuple[float, float, float]:
    shapes = np.arange(0.2, 10.001, 0.001)
    ratios = gamma(2 / shapes) ** 2 / (gamma(1 / shapes) * gamma(3 / shapes))
    left, right = math.sqrt(np.mean(values[values < 0] ** 2)), math.sqrt(np.mean(values[values > 0] ** 2))
    skew = left / right
    ratio = np.mean(np.abs(values)) ** 2 / np.mean(values**2)
    ratio = ratio * (skew**3 + 1) * (skew + 1) / (skew**2 + 1) ** 2
    shape = shapes[np.argmin((ratios - ratio) ** 2)]
    spread = math.sqrt(gamma(1 / shape) / gamma(3 / shape))
    return shape, left * spread, right * spread


def plain_features(image: np.ndarray) -> list[list[float]]:
    """As the paper says it, block by block."""
    distance = np.arange(-3, 4)
    window = np.exp(-(distance[:, None] ** 2 + distance[None] ** 2) / (2 * (7 / 6) ** 2))
    window /= window.sum()
    rows: list[list[float]] = [[] for _ in range((image.shape[0] // 96) * (image.shape[1] // 96))]
    image = image[: image.shape[0] // 96 * 96, : image.shape[1] // 96 * 96]
    for side in (96, 48):
        mean = convolve(image, window, mode="nearest")
        deviation = np.sqrt(np.abs(convolve(image**2, window, mode="nearest") - mean**2))
        normal = (image - mean) / (deviation + 1)
        blocks = [
            normal[top : top + side, left : left + side]
            for top in range(0, image.shape[0], side)
            for left in range(0, image.shape[1], side)
        ]
        for row, block in zip(rows, blocks, strict=True):
            shape, left, right = plain_fit(block)
            row += [shape, (left + right) / 2]
            for down, across in ((0, 1), (1, 0), (1, 1), (1, -1)):
                shape, left, right = plain_fit(block * np.roll(np.roll(block, down, 0), across, 1))
                row += [shape, (right - left) * gamma(2 / shape) / gamma(1 / shape), left, right]
        image = plain_half(plain_half(image).T).T
    return rows


def plain_half(image: np.ndarray) -> np.ndarray:
    """MATLAB's bicubic to half the height: eight taps of Keys' cubic, widened by two."""

    def cubic(x: float) -> float:
        x = abs(x)
        return 1.5 * x**3 - 2.5 * x**2 + 1 if x <= 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2

    taps = np.array([cubic((k - 3.5) / 2) / 2 for k in range(8)])
    padded = np.pad(image, ((3, 4), (0, 0)), "symmetric")
    return np.stack([taps @ padded[2 * row : 2 * row + 8] for row in range(image.shape[0] // 2)])


def test_features_equal_the_plain_version() -> None:
    image = luma(photo("chelsea").astype(np.float64))[:230, :301]
    found, sharpness = block_features(image)
    assert found.shape == (6, 36) and sharpness.shape == (6,)
    expected = np.array(plain_features(image))
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


def test_fit_finds_the_parameters_of_a_sample() -> None:
    rng = np.random.default_rng(0)
    samples = np.stack([rng.normal(0, 2, (500, 500)), rng.laplace(0, 0.5, (500, 500))])
    shape, left, right = fit_asymmetric(samples)
    np.testing.assert_allclose(shape, [2, 1], rtol=0.02)  # Gaussian and Laplacian
    np.testing.assert_allclose(left, [2 * math.sqrt(2), 0.5], rtol=0.03)
    np.testing.assert_allclose(right, left, rtol=0.02)
    lopsided = np.where(samples > 0, samples * 3, samples)
    _, left, right = fit_asymmetric(lopsided)
    np.testing.assert_allclose(right / left, 3, rtol=0.02)


def test_luma_is_rounded_and_any_protocol_gives_the_same() -> None:
    image = photo("astronaut")[:200, :300]
    values = luma(image.astype(np.float64))
    np.testing.assert_array_equal(values, rgb2y(image))
    for name in ("basicsr_y", "kair_y"):
        np.testing.assert_array_equal(luma(prepare(image, PROTOCOLS[name], 4)), values[4:-4, 4:-4])
    with pytest.raises(ValueError, match="expected \\(H, W, 3\\)"):
        luma(values)


def test_blocks_without_texture() -> None:
    """They leave the covariance, and of the mean they keep the shapes alone, as in the released code."""
    image = luma(photo("astronaut").astype(np.float64))[:192, :288]
    flat = image.copy()
    # As far as the windows and the resize reach; of this level, the mean in floating point is not exact.
    flat[:108, :108] = 93
    features, sharpness = block_features(flat)
    assert np.isnan(features[0]).sum() == 36 - 10 and sharpness[0] < 1e-5
    assert set(features[0][~np.isnan(features[0])]) == {0.2}
    assert not np.isnan(features[1:]).any()
    assert math.isfinite(model().distance(features))
    with pytest.raises(ValueError, match="found 0 blocks 96x96 with texture of 6"):
        model().distance(block_features(np.full((192, 288), 93.0))[0])


@pytest.mark.parametrize("size", [(95, 300), (300, 95)])
def test_refuses_less_than_a_block(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"found {size[0]}x{size[1]} pixels, expected at least a block 96x96"):
        block_features(np.zeros(size))


# --- the number ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["chelsea", "coffee", "astronaut"])
def test_rises_with_blur_noise_and_jpeg(name: str) -> None:
    image, rng = photo(name), np.random.default_rng(0)
    noise = rng.normal(0, 1, image.shape)
    noisy = [np.rint(image + sigma * noise).clip(0, 255) for sigma in (10, 25, 50)]
    blurred = [cv2.GaussianBlur(image, (0, 0), sigma) for sigma in (0.7, 1.0, 1.5)]
    coded = []
    for quality in (30, 10, 5):
        data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
        assert decoded is not None
        coded.append(decoded[..., ::-1])
    for worse in (noisy, blurred, coded):
        values = [measured(image), *map(measured, worse)]
        assert values == sorted(values) and values[-1] > 1.5 * values[0], values


def test_distance_by_its_definition() -> None:
    features = block_features(luma(photo("coffee").astype(np.float64)))[0]
    mean, covariance = features.mean(0), np.cov(features.T)
    own = NiqeModel(mean, covariance)
    assert own.distance(features) == pytest.approx(0, abs=1e-6)
    unit = NiqeModel(mean + 2, 2 * np.eye(36) - covariance)  # the mean of the covariances is the unit matrix
    assert unit.distance(features) == pytest.approx(math.sqrt(36 * 4))


# --- models ----------------------------------------------------------------------------------------------------------


def test_published_keys_are_read(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.npz", tmp_path / "theirs.npz"
    model().save(ours)
    window = np.ones((7, 7)) / 49  # not used: it is the paper's
    arrays = {"mu_pris_param": model().mean[None], "cov_pris_param": model().covariance, "gaussian_window": window}
    np.savez(theirs, **arrays)
    image = photo("chelsea").astype(np.float64)
    values = [METRICS.build({"type": "niqe", "model": str(path)})(image, None) for path in (ours, theirs)]
    assert values == [measured(image)] * 2
    assert not METRICS.build({"type": "niqe", "model": str(ours)}).higher_is_better


def test_refuses_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"niqe fit DIR --out FILE`, or use published parameters") as error:
        METRICS.build("niqe")
    assert "niqe_pris_params.npz" in str(error.value)
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "empty.npz").touch()
    np.save(tmp_path / "single.npy", np.zeros(36))
    np.savez(tmp_path / "keys.npz", mu=np.zeros(36))
    np.savez(tmp_path / "shape.npz", mu=np.zeros(18), cov=np.zeros((18, 18)))
    np.savez(tmp_path / "nan.npz", mu=np.full(36, np.nan), cov=np.eye(36))
    found = {
        "absent.npz": "there is no file",
        "text.npz": "cannot be read",
        "empty.npz": "cannot be read",
        "single.npy": "cannot be read",
        "keys.npz": "holds no `mu` and `cov`",
        "shape.npz": "holds arrays \\(18,\\) and \\(18, 18\\), expected \\(36,\\) and \\(36, 36\\)",
        "nan.npz": "not finite",
    }
    for name, message in found.items():
        with pytest.raises(OptionError, match=f"{name}.*{message}|{message}.*{name}"):
            METRICS.build({"type": "niqe", "model": str(tmp_path / name)})


def test_only_sharp_blocks_make_a_model() -> None:
    image = luma(photo("astronaut").astype(np.float64))
    soft = image.copy()
    soft[:, :288] = cv2.GaussianBlur(image[:, :288], (0, 0), 3)
    features, sharpness = block_features(soft)
    kept = features[sharpness > 0.2 * sharpness.max()]
    assert 0 < len(kept) < len(features)
    fitted, count = fit_model([soft] * 4, sharpness=0.2)
    assert count == 4 * len(kept)
    np.testing.assert_allclose(fitted.mean, kept.mean(0))
    with pytest.raises(ValueError, match=f"found {len(kept)} sharp blocks 96x96, expected more than 36"):
        fit_model([soft], sharpness=0.2)


def test_command_line(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for name in ("grass", "gravel", "astronaut"):
        write_image(photos / "deeper" / f"{name}.png", photo(name))
    write_image(photos / "small.png", photo("grass")[:95])
    (photos / "cut.png").write_bytes((photos / "small.png").read_bytes()[:500])
    result = call("utils.metrics.niqe", "fit", photos, "--out", tmp_path / "new" / "m.npz", cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "sharp blocks of 3 of 5 images" in result.stdout and "5/5" in result.stdout
    assert "small.png is smaller than a block" in result.stderr and "cut.png" in result.stderr
    names = ("astronaut", "grass", "gravel")
    expected, _ = fit_model([luma(photo(name).astype(np.float64)) for name in names])
    found = NiqeModel.load(tmp_path / "new" / "m.npz")
    np.testing.assert_array_equal(found.covariance, expected.covariance)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["m.npz"]
