"""Warnings for validation images that are trained on."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from data import overlap as module
from data.overlap import overlap
from data.source import Source
from data.sources.folder import Folder
from utils.images.files import write_image


def folder(root: Path, seeds: range, side: int = 8) -> Folder:
    for seed in seeds:
        noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
        write_image(root / f"{seed}.png", noise)
    return Folder(str(root))


def test_copies_are_named_with_both_paths(tmp_path: Path) -> None:
    train, other = folder(tmp_path / "train", range(8)), folder(tmp_path / "other", range(20, 24))
    folder(tmp_path / "valid", range(10, 13))
    shutil.copy(tmp_path / "train" / "5.png", tmp_path / "valid" / "renamed.png")
    valid = Folder(str(tmp_path / "valid"))
    (text,) = overlap({"mine": train, "more": other}, {"set5": valid, "set6": other_set(tmp_path)})
    assert text.startswith("data.validation.set5: 1 of its 4 images are also in data.train.mine, ")
    assert f"{tmp_path / 'valid' / 'renamed.png'} = {tmp_path / 'train' / '5.png'}" in text


def other_set(tmp_path: Path) -> Folder:
    return folder(tmp_path / "unseen", range(30, 33))


def test_many_are_counted_and_a_few_named(tmp_path: Path) -> None:
    train = folder(tmp_path / "train", range(9))
    (text,) = overlap({"a": train}, {"b": train})
    assert "9 of its 9 images" in text and text.endswith(", ...") and text.count("train/") == 5


def test_only_files_of_equal_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, valid = folder(tmp_path / "train", range(5), side=16), folder(tmp_path / "valid", range(5))
    monkeypatch.setattr(module, "content_digest", lambda path: pytest.fail(f"{path} was read"))
    assert overlap({"a": train}, {"b": valid}) == []


def test_equal_size_is_not_enough(tmp_path: Path) -> None:
    for name, value in (("train", b"a"), ("valid", b"b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(value)
    assert overlap({"a": Folder(str(tmp_path / "train"))}, {"b": Folder(str(tmp_path / "valid"))}) == []


class Nowhere(Source):
    """Images without files."""

    def __len__(self) -> int:
        return 3


def test_sources_without_files_and_lost_files_are_passed_over(tmp_path: Path) -> None:
    train = folder(tmp_path / "train", range(3))
    valid = folder(tmp_path / "valid", range(3))
    (tmp_path / "valid" / "1.png").unlink()
    (text,) = overlap({"a": train, "n": Nowhere()}, {"b": valid, "n": Nowhere()})
    assert "2 of its 3 images" in text
