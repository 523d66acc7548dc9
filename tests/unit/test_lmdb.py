"""LMDB databases in BasicSR's layout, written here with the `lmdb` package alone."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from data import DATASETS, Source, UnreadableImageError
from data.prepare.__main__ import main as prepare
from data.sources.lmdb import parse_meta
from utils.options.fields import OptionError


def image(seed: int, height: int = 8, width: int = 12, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def png(array: np.ndarray) -> bytes:
    return cv2.imencode(".png", array[..., ::-1])[1].tobytes()


def write(root: Path, values: Mapping[str, bytes], meta: str | None = None) -> Path:
    """A database; `meta` replaces the list."""
    with lmdb.open(str(root), map_size=2**24) as environment, environment.begin(write=True) as transaction:
        for key, value in values.items():
            transaction.put(key.encode(), value)
    lines = "".join(f"{key}.png (8,12,3) 1\n" for key in values)
    (root / "meta_info.txt").write_text(lines if meta is None else meta)
    return root


def build(**options: Any) -> Source:  # noqa: ANN401
    entry: Any = DATASETS.build({"type": "lmdb", **options}, where="data.train.mine", scale=2)
    return entry.source


def test_reads_by_key_in_the_order_of_the_list(tmp_path: Path) -> None:
    values = {f"sub/{i:02d}": png(image(i)) for i in range(3)} | {"a.b": png(image(3)), "gray": png(image(4)[..., :1])}
    meta = "sub/01.png (8,12,3) 1\na.b.png (8,12,3) 1\n\ngray.png (8,12,1) 1\nsub/02.png\n"
    root = write(tmp_path / "x.lmdb", values, meta)
    source = build(root=str(root))
    assert [source.name(i) for i in range(len(source))] == [f"{root}/{k}" for k in ("sub/01", "a.b", "gray", "sub/02")]
    np.testing.assert_array_equal(source.read(0), image(1))
    np.testing.assert_array_equal(source.read(1), image(3))
    np.testing.assert_array_equal(source.read(2), np.repeat(image(4)[..., :1], 3, axis=2))
    assert not source.paired and source.path(0) is None
    np.testing.assert_array_equal(build(root=str(root)).read(3), source.read(3))  # two sources may share one database


class Images(Dataset[np.ndarray]):
    """What a loader's workers read."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.source.read(index)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize(("start", "workers"), [("fork", 4), ("spawn", 2)])
def test_workers_read(tmp_path: Path, start: str, workers: int) -> None:
    images = [image(i, 8 + i % 3) for i in range(24)]
    meta = "".join(f"{i:03d}.png\n" for i in range(24))
    source = build(root=str(write(tmp_path / "x.lmdb", {f"{i:03d}": png(a) for i, a in enumerate(images)}, meta)))
    source.read(0)  # the parent has it open when the workers start
    for _ in range(1 if start == "spawn" else 2):
        loader = DataLoader(Images(source), batch_size=None, num_workers=workers, multiprocessing_context=start)
        for expected, found in zip(images, loader, strict=True):
            np.testing.assert_array_equal(np.asarray(found), expected)
    np.testing.assert_array_equal(source.read(5), images[5])  # and still after they have gone


def test_pairs(tmp_path: Path) -> None:
    gt, lq = {"a": image(1, 9, 12), "b": image(2)}, {"a": image(3, 4, 6), "b": image(4, 4, 6)}
    meta = "a.png (9,12,3) 1\nb.png (8,12,3) 1\n"
    root = write(tmp_path / "gt.lmdb", {k: png(v) for k, v in gt.items()}, meta)
    small = write(tmp_path / "lq.lmdb", {k: png(v) for k, v in lq.items()}, "b.png (4,6,3) 1\na.png (4,6,3) 1\n")
    source: Any = build(root=str(root), lq_root=str(small))
    assert source.paired and source.cut == 1
    np.testing.assert_array_equal(source.read(0), gt["a"][:8])
    np.testing.assert_array_equal(source.read_lq(0), lq["a"])
    np.testing.assert_array_equal(source.read_lq(1), lq["b"])


def test_keys_missing_on_either_side_are_counted_and_named(tmp_path: Path) -> None:
    value = png(image(0))
    root = write(tmp_path / "gt.lmdb", {f"g{i:02d}": value for i in range(12)} | {"both": value})
    small = write(tmp_path / "lq.lmdb", {"both": value, "l0": value, "l1": value})
    with pytest.raises(OptionError) as refused:
        build(root=str(root), lq_root=str(small))
    text = str(refused.value)
    named = ", ".join(f"g{i:02d}" for i in range(10))
    assert text.startswith("data.train.mine: ")
    assert f"12 keys of {root} are missing in {small}: {named}, ...\n" in text and "g10" not in text
    assert f"2 keys of {small} are missing in {root}: l0, l1" in text
    assert f"{root}, key 'both': is 8x12, expected 16x24, for {small} has 8x12" in text

    listed = write(tmp_path / "x.lmdb", {"a": value}, "a.png\nb.png\nc.png (8,12,3) 1")
    with pytest.raises(OptionError, match=r"x\.lmdb: 2 of the 3 keys in meta_info\.txt are missing: b, c$"):
        build(root=str(listed))


def test_all_pairs_of_wrong_size_are_listed(tmp_path: Path) -> None:
    value, names = png(image(0)), [f"k{i:02d}" for i in range(15)]
    root = write(tmp_path / "gt.lmdb", dict.fromkeys(names, value))
    small = write(tmp_path / "lq.lmdb", dict.fromkeys(names, value))
    with pytest.raises(OptionError) as refused:
        build(root=str(root), lq_root=str(small))
    assert all(f"{root}, key {name!r}" in str(refused.value) for name in names)


def test_a_list_that_lies_about_sizes_is_found_when_read(tmp_path: Path) -> None:
    root = write(tmp_path / "gt.lmdb", {"a": png(image(0))}, "a.png\n")
    small = write(tmp_path / "lq.lmdb", {"a": png(image(0))}, "a.png (4,6,3) 1\n")
    source = build(root=str(root), lq_root=str(small))
    with pytest.raises(UnreadableImageError, match=r"gt\.lmdb, key 'a': is 8x12, expected 16x24, for .*lq\.lmdb has"):
        source.read(0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"", "is empty"),
        (b"\x80\x04cos\nsystem\n", "not an image"),
        (png(image(0))[:-20], "cut off"),
        (png(image(0))[:60] + b"!" + png(image(0))[61:], "checksum"),
        (png(image(0))[:16] + b"\0\1\0\0\0\1\0\0" + png(image(0))[24:], "above the limit|checksum"),
    ],
)
def test_strangers_values_raise_an_error_with_root_and_key(tmp_path: Path, value: bytes, message: str) -> None:
    source = build(root=str(write(tmp_path / "x.lmdb", {"good": png(image(1)), "bad": value})))
    with pytest.raises(UnreadableImageError, match=rf"x\.lmdb, key 'bad': .*({message})"):
        source.read(1)
    np.testing.assert_array_equal(source.read(0), image(1))


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (None, r"has no meta_info\.txt, so it is unfinished"),
        ("", "lists no images"),
        ("../../evil.png (8,12,3) 1", "leads out of the folder"),
        ("/etc/evil.png", "leads out of the folder"),
        ("a.png\na.png (8,12,3) 1", "meta_info.txt:2: the key 'a' is listed twice"),
        ("k" * 600, r"meta_info\.txt:1: found 'kkk.*expected NAME\.png"),
        ("a" + " " * 10**5 + "b", "expected NAME"),
        ("a\0b.png", "expected NAME"),
    ],
)
def test_wrong_lists(tmp_path: Path, meta: str | None, message: str) -> None:
    root = write(tmp_path / "x.lmdb", {"a": png(image(0))}, meta or "")
    if meta is None:
        (root / "meta_info.txt").unlink()
    with pytest.raises(OptionError, match=message):
        build(root=str(root))


def test_damaged_databases_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "cut.lmdb", {f"{i}": png(image(i, 64, 64)) for i in range(20)})
    whole = (root / "data.mdb").read_bytes()
    (root / "data.mdb").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(OptionError, match=r"cut\.lmdb: .*data\.mdb has \d+ of at least \d+ bytes, so it is cut off"):
        build(root=str(root))
    other = write(tmp_path / "other.lmdb", {"a": png(image(0))})
    (other / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(OptionError, match=r"other\.lmdb: cannot be opened as an LMDB database"):
        build(root=str(other))
    with pytest.raises(
        OptionError, match=re.escape(f"{tmp_path} is no LMDB database; expected a folder with data.mdb")
    ):
        build(root=str(tmp_path))


def test_lines_of_the_list() -> None:
    assert parse_meta("a/b c.PNG (10,20,3) 1").key == "a/b c"
    assert parse_meta("a/b c.PNG (10,20,3) 1").size == (10, 20)
    assert parse_meta("x.y.png (1, 2, 3)").key == "x.y"
    assert parse_meta("v1.5 (1,2,3) 1").key == "v1.5"
    assert parse_meta("x (copy).png").size is None and parse_meta("x (copy).png").key == "x (copy)"


# --- databases of others -------------------------------------------------------------------------------------------


def test_sizes_in_a_list_may_be_wrong(tmp_path: Path) -> None:
    """BasicSR does not read them; what the images say counts."""
    gt = write(tmp_path / "gt.lmdb", {"a": png(image(1, 16, 24))}, "a.png (480,480,3) 1\n")
    lq = write(tmp_path / "lq.lmdb", {"a": png(image(2))}, "a.png (8,12,3) 1\n")
    source = build(root=str(gt), lq_root=str(lq))
    np.testing.assert_array_equal(source.read(0), image(1, 16, 24))
    gt = write(tmp_path / "small.lmdb", {"a": png(image(1, 15, 24))}, "a.png (480,480,3) 1\n")
    with pytest.raises(OptionError, match="is 15x24, expected 16x24"):
        build(root=str(gt), lq_root=str(lq))


def old_database(root: Path, images: Mapping[str, np.ndarray], meta: object = None) -> Path:
    """As the BasicSR of 2019: BGR pixels row by row, and a pickle of keys and sizes."""
    with lmdb.open(str(root), map_size=2**24) as environment, environment.begin(write=True) as transaction:
        for key, array in images.items():
            transaction.put(key.encode(), np.ascontiguousarray(array[..., ::-1]).tobytes())
    sizes = [f"{array.shape[2]}_{array.shape[0]}_{array.shape[1]}" for array in images.values()]
    usual = {"name": "DIV2K", "resolution": sizes[:1] if len(set(sizes)) == 1 else sizes, "keys": list(images)}
    (root / "meta_info.pkl").write_bytes(pickle.dumps(usual if meta is None else meta, protocol=0))
    return root


@pytest.mark.parametrize("heights", [(8, 8), (8, 10)])
def test_an_old_database_is_named_and_converted(tmp_path: Path, heights: tuple[int, int]) -> None:
    images = {"0801_s001": image(1, heights[0]), "0801_s002": image(2, heights[1])}
    old, new = old_database(tmp_path / "old.lmdb", images), tmp_path / "new.lmdb"
    with pytest.raises(OptionError, match=rf"of 2019.*python -m data\.prepare lmdb {old} --out NEW"):
        build(root=str(old))
    for _ in range(2):  # the second time keeps what is there
        assert prepare(["lmdb", str(old), "--out", str(new)]) == 0
    source = build(root=str(new))
    for index, array in enumerate(images.values()):
        np.testing.assert_array_equal(source.read(index), array)


def test_an_old_database_with_something_else_inside_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.write_text, (tmp_path / "ran", "")

    for number, meta in enumerate([{"keys": [Runs()], "resolution": ["3_8_12"]}, {"keys": ["a"]}, ["a"]]):
        old = old_database(tmp_path / f"{number}.lmdb", {"a": image(1)}, meta)
        assert prepare(["lmdb", str(old), "--out", str(tmp_path / "new.lmdb")]) == 1
        assert "is no list of keys and resolutions" in capfd.readouterr().err
    assert not (tmp_path / "ran").exists()
    short = old_database(
        tmp_path / "s.lmdb", {"a": image(1)}, {"keys": ["a", "../b"], "resolution": ["3_9_12", "3_8_12"]}
    )
    assert prepare(["lmdb", str(short), "--out", str(tmp_path / "new.lmdb")]) == 1
    assert "leads out of the folder" in capfd.readouterr().err
    short = old_database(tmp_path / "t.lmdb", {"a": image(1)}, {"keys": ["a"], "resolution": ["3_9_12"]})
    assert prepare(["lmdb", str(short), "--out", str(tmp_path / "new2.lmdb")]) == 1
    assert "has not the 9x12x3 bytes" in capfd.readouterr().err
