"""Tar files with indices: how they are made, and that their images give the samples of the same images in a folder."""

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data import DATASETS, Source
from data.prepare import shards
from data.prepare.__main__ import main as prepare
from data.prepare.convert import convert
from data.prepare.shards import hits
from data.prepare.tiles import Tiles
from data.sampler import index_of
from data.source import SourceEntry, UnreadableImageError
from data.sources.folder import Folder
from data.training import DataOptions, Mix, TrainingSet
from degradations import DEGRADATIONS
from utils.images.files import encode_image, write_image
from utils.logging import Console
from utils.options.fields import OptionError


def image(seed: int, height: int = 40, width: int = 50) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def photos(folder: Path, count: int = 9) -> Path:
    """Images of several kinds and sizes, also too small for a crop, in two folders."""
    for seed in range(count):
        suffix = (".png", ".jpg", ".bmp")[seed % 3]
        write_image(folder / ("sub" if seed % 2 else "") / f"a{seed}.b{suffix}", image(seed, 20 + 4 * seed, 50))
    write_image(folder / "deep.png", image(99).astype(np.uint16) * 257)
    return folder


def build(**options: Any) -> Any:  # noqa: ANN401
    entry: Any = DATASETS.build({"type": "shards", **options}, scale=2)
    return entry.source


def samples(source: Source, count: int = 24) -> list[torch.Tensor]:
    mix = Mix((SourceEntry(source),), ("mine",), (DEGRADATIONS.build("bicubic", scale=2),))
    options = DataOptions(train={}, crop_size=32, batch_size=8)
    drawn = TrainingSet(mix, options, seed=3, stage="psnr", batch_size=8, in_worker=False)
    return [drawn.sample(number).gts[0] for number in range(count)]


def assert_same(source: Source, expected: Source) -> None:
    """The same images, in the same order, give the same samples."""
    assert len(source) == len(expected)
    assert [Path(source.name(i)).name for i in range(len(source))] == [
        Path(expected.name(i)).name for i in range(len(expected))
    ]
    for mine, theirs in zip(samples(source), samples(expected), strict=True):
        assert torch.equal(mine, theirs)


def manifest(folder: Path) -> list[str]:
    return [shard["tar"] for shard in json.loads((folder / "manifest.json").read_text())["shards"]]


# --- our tars ----------------------------------------------------------------------------------------------------


def test_samples_are_those_of_the_folder(tmp_path: Path) -> None:
    root, out = photos(tmp_path / "photos"), tmp_path / "set"
    assert prepare(["shards", str(root), "--out", str(out), "--size", "20kB", "--workers", "1"]) == 0
    assert len(manifest(out)) > 2
    assert_same(build(root=str(out)), Folder(str(root)))


def test_tiles_are_those_of_a_folder_of_tiles(tmp_path: Path) -> None:
    root, out = photos(tmp_path / "photos"), tmp_path / "set"
    write_image(root / "a0.bB.png", image(5))  # sorts behind a0.b.png, and its tiles before
    assert prepare(["shards", str(root), "--out", str(out), "--tile", "24", "--size", "9kB", "--workers", "1"]) == 0
    convert(Tiles(24, 24), root, tmp_path / "tiles", "", 1, Console())
    assert_same(build(root=str(out)), Folder(str(tmp_path / "tiles")))


def test_several_machines_make_one_set_and_go_on_where_they_stopped(tmp_path: Path) -> None:
    root, out, whole = photos(tmp_path / "photos"), tmp_path / "set", tmp_path / "whole"
    command = ["shards", str(root), "--size", "20kB", "--workers", "1", "--out"]
    assert prepare([*command, str(whole)]) == 0
    assert prepare([*command, str(out), "--part", "2/2"]) == 0
    assert not (out / "manifest.json").exists() and (out / "000001.tar").exists() and not (out / "000000.tar").exists()
    with pytest.raises(OptionError, match="begin or finish a set"):
        build(root=str(out))
    assert prepare([*command, str(out), "--part", "1/2"]) == 0
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {p.name: p.read_bytes() for p in whole.iterdir()}

    (out / "000001.tar.json").unlink()  # as a kill leaves it
    before = (out / "000000.tar").stat().st_mtime_ns
    write_image(root / "sub" / "a7.b.jpg", image(77))
    assert prepare([*command, str(out)]) == 0
    assert (out / "000000.tar").stat().st_mtime_ns == before, "made of the same files, so kept"
    assert_same(build(root=str(out)), Folder(str(root)))

    (out / "000000.tar.json").write_text("{")
    assert prepare([*command, str(out)]) == 0, "a damaged index is made anew"
    assert_same(build(root=str(out)), Folder(str(root)))


def test_whoever_ends_last_ends_the_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine makes its part while this one works."""
    root, out, real = photos(tmp_path / "photos"), tmp_path / "set", shards.parallel
    command = ["shards", str(root), "--size", "20kB", "--workers", "1", "--out", str(out), "--part"]

    def meanwhile(*arguments: Any) -> Any:  # noqa: ANN401
        monkeypatch.setattr(shards, "parallel", real)
        assert prepare([*command, "2/2"]) == 0
        return real(*arguments)

    monkeypatch.setattr(shards, "parallel", meanwhile)
    assert prepare([*command, "1/2"]) == 0
    assert_same(build(root=str(out)), Folder(str(root)))


def test_what_cannot_be_read_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = photos(tmp_path / "photos"), tmp_path / "set"
    whole = (root / "a0.b.png").read_bytes()
    (root / "a0.b.png").write_bytes(whole[: len(whole) // 2])
    (root / "notes.txt").touch()
    for _ in range(2):  # also where nothing is left to do
        capsys.readouterr()
        assert prepare(["shards", str(root), "--out", str(out), "--workers", "1"]) == 1
    said = capsys.readouterr()
    assert "left out: a0.b.png: the PNG ends inside" in said.err and "notes.txt" in said.out + said.err
    assert len(build(root=str(out))) == 9
    assert any("a0.b.png" in remark for remark in build(root=str(out)).remarks())


def test_pairs(tmp_path: Path) -> None:
    for seed, name in enumerate(("x", "sub/y", "z")):
        write_image(tmp_path / "gt" / f"{name}.png", image(seed, 41, 50))  # a line too many, which is cut
        write_image(tmp_path / "lq" / f"{name}.bmp", image(seed + 10, 20, 25))
    out = str(tmp_path / "set")
    command = ["shards", str(tmp_path / "gt"), "--lq", str(tmp_path / "lq"), "--out", out, "--workers", "1"]
    assert prepare(command) == 0
    source = build(root=out)
    assert source.paired and source.cut == 3 and len(source) == 3
    names = [Path(source.name(i)).name for i in range(3)]
    assert names == ["y.gt.png", "x.gt.png", "z.gt.png"]
    np.testing.assert_array_equal(source.read(1), image(0, 41, 50)[:40])
    np.testing.assert_array_equal(source.read_lq(1), image(10, 20, 25))

    write_image(tmp_path / "lq" / "z.bmp", image(1, 9, 9))
    assert prepare(command) == 0
    with pytest.raises(OptionError, match=r"1 pairs do not fit the scale 2.*\n.*z\.gt\.png: 41x50, 9x9"):
        build(root=out)


def test_a_tar_that_changes_is_an_unreadable_image(tmp_path: Path) -> None:
    root, out = photos(tmp_path / "photos"), tmp_path / "set"
    prepare(["shards", str(root), "--out", str(out), "--size", "20kB", "--workers", "1"])
    source = build(root=str(out))
    tar = out / manifest(out)[0]
    tar.write_bytes(tar.read_bytes().replace(b"IDAT", b"IDAX"))
    with pytest.raises(UnreadableImageError, match=r"a0\.b\.png: .*checksum is another than in the index"):
        source.read(0)
    tar.unlink()
    with pytest.raises(UnreadableImageError, match="no such file"):
        source.read(0)


def test_what_a_cache_spares_is_what_the_formula_says() -> None:
    """Simulated: the least recently used go, each epoch is a new order of all images."""
    count, epochs = 400, 12
    for share in (0.3, 0.75, 1.0):
        recent, found = dict[int, None](), 0
        for number in range(count * epochs):
            _, i = index_of(number, 0, "", [count], [None])
            found += i in recent and number >= count
            recent.pop(i, None)
            recent[i] = None
            if len(recent) > share * count:
                del recent[next(iter(recent))]
        assert found / (count * (epochs - 1)) == pytest.approx(hits(share), abs=0.02)


# --- tars of others ----------------------------------------------------------------------------------------------


def webdataset(path: Path, count: int = 5) -> list[np.ndarray]:
    """A tar as webdataset.TarWriter makes it: members of a sample stand together, each with an ending of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [image(seed) for seed in range(count)]
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for number, array in enumerate(images):
            for ending, content in (("cls", b"3"), ("png", encode_image("x.png", array)), ("json", b"{}")):
                member = tarfile.TarInfo(f"{'long/' * 30}{number:06d}.{ending}")
                member.size, member.uname = len(content), "bigdata"
                tar.addfile(member, io.BytesIO(content))
    return images


def test_a_link_in_a_tar_is_left_out_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (expected,) = webdataset(tmp_path / "0.tar", 1)
    with tarfile.open(tmp_path / "0.tar", "a") as tar:
        link = tarfile.TarInfo("twin.png")
        link.type, link.linkname = tarfile.SYMTYPE, f"{'long/' * 30}000000.png"
        tar.addfile(link)
    assert prepare(["index", str(tmp_path), "--workers", "1"]) == 1
    assert "left out: 0.tar/twin.png: is a link" in capsys.readouterr().err
    source = build(root=str(tmp_path))
    assert len(source) == 1 and np.array_equal(source.read(0), expected)


def test_tars_of_webdataset_are_indexed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [*webdataset(tmp_path / "tars" / "0.tar"), *webdataset(tmp_path / "tars" / "more" / "1.tar", 2)]
    root, out = str(tmp_path / "tars"), str(tmp_path / "index")
    with pytest.raises(OptionError, match=f"python -m data.prepare index {root}"):
        build(root=root)
    assert prepare(["index", root, "--workers", "1"]) == 0
    assert "more/1.tar: 4 members are left out" in capsys.readouterr().out
    assert prepare(["index", root, "--out", out, "--workers", "1"]) == 0  # where one may not write
    for place in (root, out):
        source = build(root=place)
        assert [np.array_equal(source.read(i), expected) for i, expected in enumerate(images)] == [True] * 7
        assert source.name(5).endswith("more/1.tar/" + "long/" * 30 + "000000.png")
    shutil.rmtree(tmp_path / "index" / "more")
    with pytest.raises(OptionError, match=r"more/1\.tar\.json: is not what manifest\.json lists"):
        build(root=out)


@pytest.mark.parametrize("kind", ["gz", "cut"])
def test_what_is_no_plain_tar_is_refused(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    webdataset(tmp_path / "0.tar")
    content = (tmp_path / "0.tar").read_bytes()
    if kind == "gz":
        with tarfile.open(tmp_path / "0.tar", "w:gz") as tar:
            tar.add(__file__, "x.png")
    else:
        (tmp_path / "0.tar").write_bytes(content[: len(content) // 2])
    assert prepare(["index", str(tmp_path), "--workers", "1"]) == 1
    assert "0.tar: cannot be read as a tar" in capsys.readouterr().err


# --- options -----------------------------------------------------------------------------------------------------


def test_credentials_in_a_url_are_refused_and_not_shown() -> None:
    for root in ("s3://key:geheim@bucket/set", "https://host/set?X-Amz-Signature=geheim"):
        with pytest.raises(OptionError, match="AWS_ACCESS_KEY_ID") as refused:
            build(root=root)
        assert "geheim" not in str(refused.value)


def test_sizes_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    for given, message in (("256 apples", "such as 256MB"), ("0B", "greater than or equal to 1")):
        with pytest.raises(SystemExit):
            prepare(["shards", "x", "--out", "y", "--size", given])
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        prepare(["shards", "x", "--out", "y", "--part", "3/2"])
