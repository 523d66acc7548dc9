"""Lists of images as BasicSR, Real-ESRGAN and Windows write them."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data import DATASETS, Source
from data.prepare.check import check
from data.sources.folder import listable
from utils.images.files import write_image
from utils.logging import Console
from utils.options.fields import OptionError

NAMES = ("gt/a.png", "gt/sub dir/b 1.png")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate((*NAMES, "lq/a.png", "lq/sub dir/other.png", "x, y.png")):
        side = 8 if name.startswith("lq") else 16
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(tmp_path / name, np.full((side, side, 3), number, np.uint8))
    return tmp_path


def build(folder: Path, text: str | bytes, **options: Any) -> Source:  # noqa: ANN401
    (folder / "list.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return DATASETS.build({"names": str(folder / "list.txt"), **options}, where="data.train.mine", scale=2).source


def read(source: Source) -> list[int]:
    """The first value of each image, which tells the files apart; of pairs, both."""
    return [
        int(of(i)[0, 0, 0]) for i in range(len(source)) for of in (source.read, source.read_lq)[: 1 + source.paired]
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("slash", ["/", "\\"])
@pytest.mark.parametrize("column", ["", " (16,16,3) 1"])
def test_folder(photos: Path, encoding: str, slash: str, column: str) -> None:
    text = "\r\n".join(name.replace("/", slash) + column for name in NAMES)
    source = build(photos, text.encode(encoding), type="folder", root=str(photos))
    assert read(source) == [0, 1]
    assert read(build(photos, text.encode(encoding), type="folder", root=f"{photos}/gt")) == [0, 1]  # from above
    below = text.replace(f"gt{slash}", "").encode(encoding)
    assert read(build(photos, below, type="folder", root=f"{photos}{slash}gt")) == [0, 1]


@pytest.mark.parametrize("slash", ["/", "\\"])
def test_pairs(photos: Path, slash: str) -> None:
    """From the common folder as released, or with each image's own, which Real-ESRGAN's script writes into names."""
    text = "gt/a.png, lq/a.png\ngt/sub dir/b 1.png, lq/sub dir/other.png\n".replace("/", slash)
    root = str(photos)
    assert read(build(photos, text, type="paired", gt_root=root, lq_root=root)) == [0, 2, 1, 3]
    assert read(build(photos, text, type="paired", gt_root=f"{root}/gt", lq_root=f"{root}/lq")) == [0, 2, 1, 3]


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("gt/a.png, lq/a.png", {"type": "folder", "root": "."}, "lists pairs; use `type: paired`"),
        ("gt/a.png, lq/a.png\ngt/a.png", {"type": "paired"}, "expected two names in every line"),
        ("gt/a.png, lq/a.png", {"type": "paired", "pattern": "{}x4"}, "no `pattern` beside it"),
        ("gt/a.png, lq/c.png", {"type": "paired"}, "1 of the 1 images listed in .* are missing: .*lq/c.png"),
        ("gt/a.png, gt/a.png", {"type": "paired"}, "16x16, expected 32x32"),
        ("..\\a.png", {"type": "folder", "root": "."}, "leads out of the folder"),
        ("gt/a.png, ../a.png", {"type": "paired"}, "leads out of the folder"),
        ("C:\\photos\\a.png", {"type": "folder", "root": "."}, "leads out of the folder"),
        (b"\xff\xfea", {"type": "folder", "root": "."}, "cannot read the list .* save it as UTF-8"),
    ],
)
def test_refused(
    photos: Path, text: str | bytes, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos)
    roots = {"gt_root": ".", "lq_root": "."} if options["type"] == "paired" else {}
    with pytest.raises(OptionError, match=message):
        build(photos, text, **roots, **options)


def test_a_name_that_reads_as_a_pair_is_not_listed() -> None:
    assert listable("x, y.png") and not listable("x.png, y.png")


def test_a_name_that_is_no_text_is_not_listed(tmp_path: Path) -> None:
    """Linux takes any bytes for a name."""
    for name, level in {b"ok.png": 1, b"bad\xff.png": 2}.items():
        write_image(tmp_path / "a.png", np.full((8, 8, 3), level, np.uint8))
        os.rename(tmp_path / "a.png", os.path.join(os.fsencode(tmp_path), name))
    assert check([tmp_path], tmp_path / "list.txt", 1, 1, Console()) == 0
    assert (tmp_path / "list.txt").read_text() == "ok.png\n"
