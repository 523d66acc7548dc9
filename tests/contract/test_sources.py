"""Every registered source of images against the `Source` protocol.

A new source is given a folder of images as `root`, if it takes one. Another needs a line in SOURCES: a function that
puts a small set into a folder and returns its options.
"""

import pickle
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data import DATASETS, Source, UnreadableImageError
from data.prepare.lmdb import write_database
from data.prepare.shards import make_shards
from data.sources.folder import Folder
from utils.images.files import read_image, write_image
from utils.logging import Console
from utils.options.components import OptionsError
from utils.options.fields import OptionError

SCALE = 4


def image(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def fill(folder: Path, names: tuple[str, ...] = ("a.png", "b.png", "sub/c.png"), divide: int = 1) -> Path:
    """Writes one image per name, its sides divided."""
    for seed, name in enumerate(names):
        write_image(folder / name, image(seed, 24 // divide, 32 // divide))
    return folder


def a_folder(tmp_path: Path) -> dict[str, Any]:
    return {"root": str(fill(tmp_path / "gt"))}


def no_options(_: Path) -> dict[str, Any]:
    return {}


def paired(tmp_path: Path) -> dict[str, Any]:
    return {"gt_root": str(fill(tmp_path / "gt")), "lq_root": str(fill(tmp_path / "lq", divide=SCALE))}


def photos(tmp_path: Path) -> dict[str, Any]:
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    return {"split": "validation"}


def database(tmp_path: Path) -> dict[str, Any]:
    write_database(fill(tmp_path / "gt"), tmp_path / "gt.lmdb", "", 1, Console())
    return {"root": str(tmp_path / "gt.lmdb")}


def paired_databases(tmp_path: Path) -> dict[str, Any]:
    write_database(fill(tmp_path / "lq", divide=SCALE), tmp_path / "lq.lmdb", "", 1, Console())
    return {**database(tmp_path), "lq_root": str(tmp_path / "lq.lmdb")}


def shards(tmp_path: Path, lq: Path | None = None) -> dict[str, Any]:
    out = str(tmp_path / "set")
    make_shards(fill(tmp_path / "gt"), lq, out, 3000, None, (1, 1), 1, Console())
    return {"root": out}


def paired_shards(tmp_path: Path) -> dict[str, Any]:
    return shards(tmp_path, fill(tmp_path / "lq", divide=SCALE))


# The first word is the type.
SOURCES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "folder": a_folder,
    "lmdb": database,
    "lmdb with pairs": paired_databases,
    "paired": paired,
    "photos": photos,
    "shards": shards,
    "shards with pairs": paired_shards,
}


@pytest.fixture(params=sorted({*DATASETS.names(), *SOURCES}))
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    kind = request.param.split()[0]
    by_default = a_folder if "root" in signature(DATASETS.get(kind)).parameters else no_options
    options = {"type": kind, **SOURCES.get(request.param, by_default)(tmp_path)}
    entry: Any = DATASETS.build(options, scale=SCALE)
    return entry.source


def test_names(source: Source) -> None:
    assert len(source) > 0
    names = [source.name(index) for index in range(len(source))]
    assert all(isinstance(name, str) and name for name in names) and len(set(names)) == len(names)


def test_reads_rgb(source: Source) -> None:
    for index in range(len(source)):
        array = source.read(index)
        assert array.ndim == 3 and array.shape[2] == 3 and array.dtype in (np.uint8, np.uint16)
        np.testing.assert_array_equal(source.read(index), array)


def test_paths(source: Source) -> None:
    """A path is a file that holds the image, for whoever compares files."""
    for index in range(len(source)):
        path = source.path(index)
        assert path is None or path.is_file()
    if isinstance(source, Folder):
        np.testing.assert_array_equal(read_image(source.path(1)), source.read(1))


def test_pairs(source: Source) -> None:
    if not source.paired:
        with pytest.raises(NotImplementedError):
            source.read_lq(0)
        return
    for index in range(len(source)):
        gt, lq = source.read(index), source.read_lq(index)
        assert lq.ndim == 3 and lq.shape[2] == 3 and lq.dtype in (np.uint8, np.uint16)
        assert gt.shape[:2] == (lq.shape[0] * SCALE, lq.shape[1] * SCALE)


def test_travels_to_a_worker(source: Source) -> None:
    """Also after it was read from, since a validation may come before the workers start."""
    first = source.read(0)
    twin: Source = pickle.loads(pickle.dumps(source))
    assert [twin.name(i) for i in range(len(twin))] == [source.name(i) for i in range(len(source))]
    np.testing.assert_array_equal(twin.read(0), first)


def test_unknown_options_are_refused(tmp_path: Path) -> None:
    for name in DATASETS.names():
        with pytest.raises(OptionsError, match="no_such_option"):
            DATASETS.check({"type": name, "no_such_option": 1})


# --- folder ----------------------------------------------------------------------------------------------------


def build(**options: Any) -> Source:  # noqa: ANN401
    entry: Any = DATASETS.build({"type": "folder", **options})
    return entry.source


def names_of(source: Source, root: Path) -> list[str]:
    return [str(Path(source.name(i)).relative_to(root)) for i in range(len(source))]


def test_folder_is_sorted_and_joins_roots_in_order(tmp_path: Path) -> None:
    one, two = fill(tmp_path / "z"), fill(tmp_path / "a", ("x.PNG",))
    assert names_of(build(root=[str(one), str(two)]), tmp_path) == ["z/a.png", "z/b.png", "z/sub/c.png", "a/x.PNG"]
    assert len(build(root=[str(one), str(two)], max_images=2)) == 2


def test_folder_paths_start_at_the_working_directory_or_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path / "gt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    np.testing.assert_array_equal(build(root="gt").read(1), image(1))
    np.testing.assert_array_equal(build(root="~/gt").read(1), image(1))


def test_folder_with_a_list(tmp_path: Path) -> None:
    root = fill(tmp_path / "gt", ("a.png", "with blank.png", "sub/c.png", "unlisted.png"))
    listing = tmp_path / "meta.txt"
    listing.write_text("sub/c.png (24,32,3)\n\nwith blank.png (24,32,3)\na.png\n")
    source = build(root=str(root), names=str(listing))
    assert names_of(source, root) == ["sub/c.png", "with blank.png", "a.png"]
    np.testing.assert_array_equal(source.read(0), image(2))
    assert len(build(root=str(root), names=str(listing), max_images=1)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("../b.png", "leads out"),
        ("sub/../../b.png", "leads out"),
        ("/etc/b.png", "leads out"),
        ("a.png\nnotes.txt", r"meta.txt:2: found 'notes.txt', expected .*\.png"),
        ("a.png\nx1.png\nx2.png", "2 of the 3 images listed in .*meta.txt are missing: .*x1.png, .*x2.png"),
        ("\n", "is empty"),
    ],
)
def test_folder_with_a_wrong_list(tmp_path: Path, text: str, message: str) -> None:
    root = fill(tmp_path / "gt")
    (tmp_path / "meta.txt").write_text(text)
    with pytest.raises(OptionError, match=message):
        build(root=str(root), names=str(tmp_path / "meta.txt"))


def test_folder_that_is_missing_empty_or_ambiguous(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    root = fill(tmp_path / "gt")
    for options, message in [
        ({"root": str(tmp_path / "none")}, r"none: no such folder; .*\.png"),
        ({"root": str(tmp_path / "empty")}, r"empty holds no images; accepted are \.png"),
        ({"root": []}, "at least one folder"),
        ({"root": str(root), "names": str(tmp_path / "none.txt")}, "cannot read the list .*none.txt"),
        ({"root": [str(root), str(root)], "names": "x.txt"}, "one root, found 2"),
        ({"root": str(root), "max_images": 0}, "greater than or equal to 1"),
    ]:
        with pytest.raises(OptionError, match=message):
            build(**options)


def test_folder_names_a_broken_file(tmp_path: Path) -> None:
    root = fill(tmp_path / "gt")
    whole = (root / "b.png").read_bytes()
    (root / "b.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnreadableImageError, match=r"b\.png: .*cut off"):
        build(root=str(root)).read(1)


# --- photos ----------------------------------------------------------------------------------------------------


def test_photos_are_split_and_large_enough() -> None:
    pytest.importorskip("skimage")
    pytest.importorskip("sklearn")
    splits = {}
    for split in ("train", "validation", "all"):
        entry: Any = DATASETS.build({"type": "photos", "split": split})
        splits[split] = [entry.source.name(i) for i in range(len(entry.source))]
        smallest = min(min(entry.source.read(i).shape[:2]) for i in range(len(entry.source)))
        assert smallest >= (427 if split == "train" else 300)
    assert not set(splits["train"]) & set(splits["validation"])
    assert splits["all"] == splits["train"] + splits["validation"]
    assert (len(splits["train"]), len(splits["validation"])) == (7, 3)


def test_photos_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.sources.photos.find_spec", lambda name: None)
    with pytest.raises(OptionError, match=r"python -m pip install -e '\.\[demo\]'"):
        DATASETS.build({"type": "photos"})
