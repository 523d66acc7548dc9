"""JPEG against libjpeg itself (through OpenCV), which it equals in every pixel, and its Ragged semantics."""

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data
import torch

from degradations import STEPS, Ragged, State
from degradations.operations.libjpeg import _opencv_has_libjpeg, jpeg, jpeg_batched
from utils.options.fields import OptionError, RangeSchedule

KAIR = Path(__file__).parents[1] / "golden" / "kair"
SIZES = [(1, 1), (1, 20), (21, 1), (2, 3), (3, 4), (4, 5), (6, 6), (15, 18), (16, 17), (33, 50), (64, 96), (71, 73)]
QUALITIES = [10, 30, 49, 50, 51, 75, 90, 95, 100]


def _libjpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """OpenCV's coding of an RGB or gray uint8 image."""
    done, code = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done
    decoded = cv2.imdecode(code, cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    return decoded[..., None] if decoded.ndim == 2 else decoded[..., ::-1]


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1).copy()).float() / 255


def _levels(image: torch.Tensor) -> np.ndarray:
    return (image * 255).round().numpy().transpose(1, 2, 0)


def _crops(channels: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    crops = []
    for photo in (skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee()):
        for h, w in SIZES:
            y, x = rng.integers(photo.shape[0] - h + 1), rng.integers(photo.shape[1] - w + 1)
            crops.append(photo[y : y + h, x : x + w, :channels])
    return crops


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", QUALITIES)
def test_equals_libjpeg(quality: int, channels: int) -> None:
    for crop in _crops(channels):
        made = jpeg_batched(Ragged.of(_tensor(crop)[None]), [quality])
        difference = np.abs(_levels(made.data[0]) - _libjpeg(crop, quality))
        # Other builds may use another cosine transform; the one in opencv-python gives a difference of 0.
        assert difference.mean() < 0.5 and difference.max() < 6, (quality, crop.shape, difference.max())


def test_is_exact_on_the_libjpeg_of_this_repository() -> None:
    """The promise of the module's first line, with the libjpeg-turbo inside opencv-python-headless."""
    for quality in QUALITIES:
        for crop in _crops(3):
            image = Ragged.of(_tensor(crop)[None])
            result = jpeg_batched(image, [quality]).data
            assert np.array_equal(_levels(result[0]), _libjpeg(crop, quality)), (quality, crop.shape)
            assert torch.equal(result, jpeg(image, [quality]).data)  # by OpenCV itself
    assert _opencv_has_libjpeg()


def test_does_without_opencv_where_its_coding_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = Ragged.of(_tensor(skimage.data.astronaut()[:40, 100:150])[None])
    expected = jpeg(photo, [40]).data
    _opencv_has_libjpeg.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr(cv2, "imencode", lambda _, image, options: (True, image))
        patch.setattr(cv2, "imdecode", lambda code, _: code)
        assert not _opencv_has_libjpeg()
        assert torch.equal(jpeg(photo, [40]).data, expected)
    _opencv_has_libjpeg.cache_clear()


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_equals_kair(quality: int) -> None:
    arrays, about = np.load(KAIR / "ops.npz"), json.loads((KAIR / "ops.json").read_text())["arrays"]
    name = f"add_JPEG_q{quality}"
    assert about[name]["quality"] == quality
    result = jpeg(Ragged.of(torch.from_numpy(arrays["img"].transpose(2, 0, 1).copy())[None]), [quality]).data[0]
    np.testing.assert_allclose(result.numpy().transpose(1, 2, 0), arrays[name], atol=1e-6)


@pytest.mark.parametrize("codec", [jpeg, jpeg_batched])
def test_mixed_batch_equals_one_by_one_and_never_reads_padding(codec: Callable[..., Ragged]) -> None:
    crops = [_tensor(crop) for crop in _crops(3)[: len(SIZES)]]
    qualities = [10 + 7 * i for i in range(len(crops))]
    batch = Ragged.pack(crops)
    for row, (h, w) in zip(batch.data, batch.sizes, strict=True):
        row[:, h:] = float("nan")
        row[:, :, w:] = float("nan")
    together = codec(batch, qualities)
    assert together.sizes == batch.sizes
    for crop, quality, result in zip(crops, qualities, together.images(), strict=True):
        assert torch.equal(result, codec(Ragged.of(crop[None]), [quality]).data[0])
    order = list(reversed(range(len(crops))))
    backwards = codec(batch.select(order), [qualities[i] for i in order])
    for i, result in zip(order, backwards.images(), strict=True):
        assert torch.equal(result, together.images()[i])


@pytest.mark.parametrize("codec", [jpeg, jpeg_batched])
def test_clips_rounds_and_leaves_its_input_alone(codec: Callable[..., Ragged]) -> None:
    x = torch.rand(1, 3, 17, 19) * 3 - 1
    kept = x.clone()
    result = codec(Ragged.of(x), [60]).data
    assert torch.equal(x, kept)
    assert torch.equal(result, (result * 255).round() / 255)
    assert torch.equal(result, codec(Ragged.of((x.clamp(0, 1) * 255).round() / 255), [60]).data)


def test_lower_quality_is_worse() -> None:
    photo = _tensor(skimage.data.astronaut()[:96, 100:196])[None]
    errors = [float((jpeg(Ragged.of(photo), [q]).data - photo).square().mean()) for q in (1, 5, 20, 20.5, 60, 100)]
    assert errors == sorted(errors, reverse=True) and errors[0] > 10 * errors[-1]


def test_works_under_autocast_and_inference_mode() -> None:
    photo = Ragged.of(_tensor(skimage.data.astronaut()[:40, 100:150])[None])
    expected = jpeg(photo, [40]).data
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(jpeg_batched(photo, [40]).data, expected)


def _state(iteration: int = 0) -> State:
    return State((32, 32), (32, 32), 1, 1, iteration)


def test_draws_every_quality_of_the_range_uniformly() -> None:
    step = STEPS.build({"type": "jpeg", "quality_range": [30, 34]}).step
    rng = np.random.default_rng(1)
    drawn = [step.sample(rng, _state())["quality"] for _ in range(2000)]
    counts = np.bincount(drawn, minlength=35)[30:]
    assert counts.sum() == 2000 and (np.abs(counts - 400) < 90).all()  # five standard deviations
    assert type(drawn[0]) is int


def test_default_range_and_schedule() -> None:
    rng = np.random.default_rng(2)
    default = STEPS.build("jpeg").step
    drawn = {default.sample(rng, _state())["quality"] for _ in range(3000)}
    assert drawn == set(range(30, 96))
    moving = STEPS.build({"type": "jpeg", "quality_range": [[0, [90, 90]], [100, [50, 50]]]}).step
    assert [moving.sample(rng, _state(i))["quality"] for i in (0, 50, 100, 200)] == [90, 70, 50, 50]
    assert RangeSchedule([(0, (30, 95))]) == default.quality_range


def test_the_step_applies_what_it_drew() -> None:
    photo = Ragged.of(_tensor(skimage.data.astronaut()[:40, 100:150])[None])
    step = STEPS.build("jpeg").step
    assert torch.equal(step.apply(photo, [{"quality": 33}]).data, jpeg(photo, [33]).data)


def test_refuses() -> None:
    x = Ragged.of(torch.rand(1, 3, 8, 8))
    for quality in ([0], [101], [50, 50], []):
        with pytest.raises(ValueError, match="1…100"):
            jpeg(x, quality)
    with pytest.raises(ValueError, match="RGB or gray"):
        jpeg(Ragged.of(torch.rand(1, 4, 8, 8)), [50])
    with pytest.raises(OptionError, match="allowed"):
        STEPS.build({"type": "jpeg", "quality_range": [0, 95]})


@pytest.mark.gpu
def test_cuda_equals_cpu() -> None:
    batch = Ragged.pack([_tensor(crop) for crop in _crops(3)[: len(SIZES)]])
    qualities = [10 + 7 * i for i in range(len(SIZES))]
    there = jpeg(Ragged(batch.data.cuda(), batch.sizes), qualities)
    for mine, other in zip(jpeg(batch, qualities).images(), there.images(), strict=True):
        assert torch.equal(mine, other.cpu())
