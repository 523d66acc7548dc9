"""Decoded images on the disk: what is read through the cache is what is in the files."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from data.cache import ImageCache
from data.source import DATASETS
from data.training import DataOptions, Mix, TrainingSet
from degradations import DEGRADATIONS
from utils.images.files import ImageError, read_image, write_image
from utils.options.fields import OptionError


def write(path: Path, seed: int, dtype: type = np.uint8) -> np.ndarray:
    image = np.random.default_rng(seed).integers(np.iinfo(dtype).max, size=(40, 50, 3), endpoint=True).astype(dtype)
    write_image(path, image)
    return image


def training_set(folder: Path, cache: Path | None) -> TrainingSet:
    where = None if cache is None else str(cache)
    sources = {
        "photos": {"type": "folder", "root": str(folder / "gt")},
        "pairs": {
            "type": "paired",
            "gt_root": str(folder / "gt"),
            "lq_root": str(folder / "lq"),
            "degradation": "none",
        },
    }
    specs = {name: DATASETS.check(source, name, scale=2) for name, source in sources.items()}
    mix = Mix.build(specs, DEGRADATIONS.build("bicubic", scale=2), 2, where)
    options = DataOptions(train=specs, crop_size=16, batch_size=8, cache=where)
    return TrainingSet(mix, options, seed=3, stage="psnr", batch_size=8, in_worker=False)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Photographs of 8 and 16 bits, one smaller than a crop, with their partners."""
    for i, (height, width, dtype) in enumerate(((60, 40, np.uint8), (30, 80, np.uint8), (12, 20, np.uint16))):
        image = np.random.default_rng(i).integers(np.iinfo(dtype).max, size=(height, width, 3)).astype(dtype)
        write_image(tmp_path / "gt" / f"{i}.png", image)
        write_image(tmp_path / "lq" / f"{i}.png", np.ascontiguousarray(image[::2, ::2]))
    return tmp_path


def test_other_decoders_make_it_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, cache = write(tmp_path / "a.png", 0), ImageCache(tmp_path / "cache")
    cache.read(str(tmp_path / "a.png"))
    monkeypatch.setattr("data.cache.read_image", lambda path: image + 1)
    np.testing.assert_array_equal(cache.read(str(tmp_path / "a.png")), image)
    monkeypatch.setattr("data.cache._decoders", lambda: ("another",))
    np.testing.assert_array_equal(cache.read(str(tmp_path / "a.png")), image + 1)


def test_samples_are_the_same_with_and_without(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, kept = training_set(photos, None), training_set(photos, photos / "cache")
    filling = kept.__getitems__(range(24))
    monkeypatch.setattr("data.cache.read_image", None)  # whatever is decoded now ends in a TypeError
    for batch in (filling, kept.__getitems__(range(24))):
        expected = plain.__getitems__(range(24))
        assert batch.plans == expected.plans and batch.paths == expected.paths
        assert batch.gt is not None and expected.gt is not None and torch.equal(batch.gt, expected.gt)
        assert torch.equal(batch.lq, expected.lq)
    assert len(list((photos / "cache").iterdir())) == 6


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_changed_image_is_read_anew(tmp_path: Path, dtype: type) -> None:
    cache, path = ImageCache(tmp_path / "cache"), tmp_path / "image.png"
    for seed in range(2):
        image = write(path, seed, dtype)
        os.utime(path, (10, 10))  # neither size nor time need tell
        found = [cache.read(path) for _ in range(2)]
        assert all(np.array_equal(one, image) and one.dtype == dtype for one in found)
        assert isinstance(found[1], np.memmap) and not found[1].flags.writeable
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_what_is_kept_survives_kills(tmp_path: Path) -> None:
    """Files cut off in the middle count as none, and those never finished are removed after an hour."""
    cache, path = ImageCache(tmp_path / "cache"), tmp_path / "image.png"
    image = write(path, 0)
    cache.read(path)
    (kept,) = (tmp_path / "cache").iterdir()
    whole = kept.read_bytes()
    for length in (0, 5, 200, len(whole) - 1):
        kept.write_bytes(whole[:length])
        assert np.array_equal(cache.read(path), image) and kept.read_bytes() == whole
    fresh, old = (tmp_path / "cache" / f".{age}.tmp" for age in ("fresh", "old"))
    for left in (fresh, old):
        left.write_bytes(b"")
    os.utime(old, (10, 10))
    ImageCache(tmp_path / "cache")
    assert fresh.exists() and not old.exists()


def test_many_may_fill_it_at_once(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    image = write(path, 0)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: ImageCache(tmp_path / "cache").read(path), range(40)))
    assert all(np.array_equal(one, image) for one in found)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_full_disk_costs_time_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    cache, path = ImageCache(tmp_path / "cache"), tmp_path / "image.png"
    image = write(path, 0)
    monkeypatch.setattr(os, "fsync", full)
    for _ in range(2):
        assert np.array_equal(cache.read(path), image)
    assert not list((tmp_path / "cache").iterdir())


def test_bad_images_and_folders_are_named(tmp_path: Path) -> None:
    cache, path = ImageCache(tmp_path / "cache"), tmp_path / "image.png"
    with pytest.raises(ImageError, match=r"image\.png: there is no such file"):
        cache.read(path)
    path.write_bytes(b"no image")
    with pytest.raises(ImageError, match=r"image\.png"):
        cache.read(path)
    with pytest.raises(OptionError, match=r"data\.cache: cannot make the folder"):
        ImageCache(path / "cache")


def test_names_need_not_be_text(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.png")
    image, cache = write(path, 1), ImageCache(tmp_path / "cache")
    for _ in range(2):
        assert np.array_equal(cache.read(path), image)


def test_its_size_is_said_beforehand(photos: Path) -> None:
    source = training_set(photos, photos / "cache").mix.entries[0].source
    total = sum(read_image(path).nbytes for path in (photos / "gt").iterdir())
    (said,) = (remark for remark in source.remarks() if "data.cache" in remark)
    assert said.startswith(f"data.cache: decoded, the images take {total / 1e9:.3g} GB in {photos / 'cache'}; ")
