"""The real `python -m data.prepare`: its results, and that it goes on after a kill."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pytest

from data import DATASETS, Source
from data.prepare import lmdb as database
from data.prepare.__main__ import main
from data.prepare.multiscale import Multiscale, lanczos
from data.prepare.tiles import Tiles
from data.prepare.work import parallel
from tests import programs
from tests.helpers import ROOT
from utils.images.files import image_files, read_image, write_image


def image(seed: int, height: int = 16, width: int = 20, dtype: Any = np.uint8, channels: int = 3) -> np.ndarray:  # noqa: ANN401
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max + 1, shape, dtype=dtype)


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "data.prepare", *map(str, arguments)]


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return programs.call("data.prepare.__main__", *arguments, cwd=ROOT)


def built(**options: Any) -> Source:  # noqa: ANN401
    entry: Any = DATASETS.build(options)
    return entry.source


# --- killed and started again ----------------------------------------------------------------------------------------


HANGING = """
import multiprocessing, sys, time
from pathlib import Path
block, opened = sys.argv.pop(1), Path.open
def hanging(path, *arguments, **more):
    if str(path) == block and multiprocessing.parent_process() is not None:
        time.sleep(1000)
    return opened(path, *arguments, **more)
Path.open = hanging
forked = multiprocessing.get_context("fork")  # so that workers inherit this
multiprocessing.get_context = lambda method=None: forked
from data.prepare.__main__ import main
sys.exit(main())
"""


def kill_in_the_middle(block: Path, ready: Callable[[], bool], *arguments: str | Path) -> None:
    """Runs a command whose worker hangs on reading `block`, kills it when `ready`, and waits for its workers to go."""
    write_image(block, image(0))
    words = [sys.executable, "-c", HANGING, str(block), *map(str, arguments)]
    process = subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_until(ready, process)
        assert len(running(process.pid)) > 2  # workers, too
        process.kill()
        process.wait()
        wait_until(lambda: not running(process.pid))
    finally:
        for pid in running(process.pid):
            os.kill(pid, signal.SIGKILL)
    block.unlink()


def running(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for about in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = about.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue  # gone meanwhile
        if int(its_session) == session and state != "Z":
            found.append(int(about.parent.name))
    return found


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes] | None = None) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end and (process is None or process.poll() is None)
        time.sleep(0.05)


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


@pytest.mark.slow
def test_a_killed_lmdb_goes_on(tmp_path: Path) -> None:
    source, out = tmp_path / "src", tmp_path / "x.lmdb"
    for i in range(90):
        write_image(source / f"{i:02d}.png", image(i))
    arguments = ("lmdb", source, "--out", out, "--workers", "2")
    # One transaction of 64 is on the disk; the others wait for more.
    kill_in_the_middle(source / "40a.png", lambda: lines_of(out / "prepared.jsonl") == 1 + 64, *arguments)
    assert not (out / "meta_info.txt").exists()

    write_image(source / "40a.png", image(100))
    damage(out, b"05")
    write_image(source / "06.png", image(106))
    with (out / "prepared.jsonl").open("a") as record:
        record.write('{"name": "8')  # as a kill during the write leaves it
    result = run(*arguments)
    assert result.returncode == 0, result.stderr
    kept = 64 - sum(name in result_names(out) for name in ("05", "06"))
    assert f"91 images, {kept} of them from before, 0 unusable" in result.stdout

    meta = (out / "meta_info.txt").read_text().splitlines()
    assert meta == sorted(f"{path.name} (16,20,3) 1" for path in source.iterdir())
    found = built(type="lmdb", root=str(out))
    for index, path in enumerate(image_files(source)):
        np.testing.assert_array_equal(found.read(index), read_image(path))


def damage(root: Path, key: bytes) -> None:
    with lmdb.open(str(root), map_size=2**24) as environment, environment.begin(write=True) as transaction:
        value = transaction.get(key)
        assert value is not None
        transaction.put(key, value[:-30])


def result_names(out: Path) -> set[str]:
    """Names that the first run had entered: its lines of the record."""
    lines = (out / "prepared.jsonl").read_text().splitlines()[1 : 1 + 64]
    return {line.split('"')[3] for line in lines}


def test_killed_tiles_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "src", tmp_path / "tiles"
    for i in range(20):
        write_image(source / "sub" / f"{i:02d}.png", image(i, 24, 32))
    arguments = ("tiles", source, "--out", out, "--size", "16", "--step", "8", "--workers", "2")
    record = out / ".prepared.jsonl"
    kill_in_the_middle(source / "sub" / "07a.png", lambda: lines_of(record) == 1 + 20, *arguments)

    write_image(source / "sub" / "07a.png", image(7, 24, 32))
    (out / "sub" / "03_s002.png").unlink()
    before = {path: path.stat().st_mtime_ns for path in image_files(out)}
    assert main([*map(str, arguments[:-1]), "1"]) == 0
    assert f"{out}: {21 * 6} images of 21 files, 19 done before, 0 unusable" in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in image_files(out)}
    assert len(after) == 21 * 6
    again = {path.name[:3] for path in before if before[path] != after[path]}
    assert again == {"03_"}


def test_a_real_check_names_what_is_bad(tmp_path: Path) -> None:
    source, listing = tmp_path / "src", tmp_path / "list.txt"
    fill_with_everything(source)
    result = run("check", source, "--out", listing, "--min-size", "16", "--workers", "2")
    assert result.returncode == 1
    for kind, name, reason in [
        ("truncated", "cut.jpg", "no end marker, so it is cut off"),
        ("truncated", "cut.png", "cut off"),
        ("truncated", "empty.png", "the file is empty"),
        ("unreadable", "text.png", "not an image"),
    ]:
        assert f"error: {kind}: {source / name}: " in result.stderr and reason in result.stderr
    assert f"tiny: {source / 'tiny.png'}: 4x40 has a side under 16" in result.stdout
    assert f"duplicate: {source / 'twin.bmp'}: has the pixels of {source / 'a.png'}" in result.stdout
    for row in (
        "| RGB | 8 | 5 |",
        "| gray | 8 | 1 |",
        "| RGBA | 8 | 1 |",
        "| RGB | 16 | 1 |",
        "| good | 6 |",
        "| unreadable | 1 |",
        "| truncated | 3 |",
        "| tiny | 1 |",
        "| duplicate | 1 |",
        "| all | 12 |",
    ):
        assert row in " ".join(result.stdout.split()), row
    good = built(type="folder", root=str(source), names=str(listing))
    names = [Path(good.name(i)).name for i in range(len(good))]
    assert names == ["a.png", "alpha.png", "deep.png", "gray.png", "photo.jpg", "with blank.png"]


def fill_with_everything(source: Path) -> None:
    write_image(source / "a.png", image(0, 24, 32))
    write_image(source / "twin.bmp", image(0, 24, 32))
    write_image(source / "with blank.png", image(1, 100, 200))
    write_image(source / "photo.jpg", image(2, 24, 32))
    write_image(source / "gray.png", image(3, 24, 32, channels=1))
    write_image(source / "alpha.png", image(4, 24, 32, channels=4))
    write_image(source / "deep.png", image(5, 24, 32, np.uint16))
    write_image(source / "tiny.png", image(6, 4, 40))
    for name in ("cut.png", "cut.jpg"):
        write_image(source / name, image(7, 24, 32))
        (source / name).write_bytes((source / name).read_bytes()[:-40])
    (source / "empty.png").touch()
    (source / "text.png").write_text("no image")


# --- check -----------------------------------------------------------------------------------------------------------


def test_modes_of_palettes_and_cmyk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pillow = pytest.importorskip("PIL.Image")
    photo = pillow.fromarray(image(0, 40, 40))
    photo.quantize(16).save(tmp_path / "palette.png", bits=4)
    photo.convert("CMYK").save(tmp_path / "cmyk.jpg")
    photo.convert("L").save(tmp_path / "gray.jpg", progressive=True)
    photo.quantize(200).save(tmp_path / "palette.bmp")
    photo.convert("LA").save(tmp_path / "la.png")
    assert main(["check", str(tmp_path), "--workers", "1"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    rows = ("palette | 4", "CMYK | 8", "gray | 8", "palette | 8", "gray + alpha | 8")
    assert all(f"| {row} | 1 |" in out for row in rows)


def test_a_check_goes_on_only_with_what_has_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, listing = tmp_path / "src", tmp_path / "list.txt"
    for i in range(5):
        write_image(source / f"{i}.png", image(i, 40, 40))
    from data.prepare import check as module

    read = []
    examine = module.examine

    def stopping(path: Path) -> object:
        if len(read) == 3:
            raise KeyboardInterrupt
        read.append(path.name)
        return examine(path)

    monkeypatch.setattr(module, "examine", stopping)
    arguments = ["check", str(source), "--out", str(listing), "--workers", "1"]
    assert main(arguments) == 130 and not listing.exists()
    (source / "1.png").write_bytes(b"changed")
    monkeypatch.setattr(module, "examine", lambda path: (read.append(path.name), examine(path))[1])
    assert main(arguments) == 1
    assert read == ["0.png", "1.png", "2.png", "1.png", "3.png", "4.png"]
    assert listing.read_text().split() == ["0.png", "2.png", "3.png", "4.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.txt", "src"]


def test_a_list_for_several_folders_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path), str(tmp_path), "--out", str(tmp_path / "x.txt")]) == 1
    assert "--out takes one folder, found 2" in capsys.readouterr().err


# --- tiles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "step", "thresh"), [(480, 240, 0), (400, 200, 0), (16, 16, 5), (7, 20, 0)])
def test_windows_are_those_of_the_published_script(size: int, step: int, thresh: int) -> None:
    for length in (size, size + 1, size + step, size + step + thresh, size + step + thresh + 1, 3 * size + 17):
        expected = list(np.arange(0, length - size + 1, step))
        if length - (expected[-1] + size) > thresh:
            expected.append(length - size)
        assert Tiles(size, step, thresh).starts(length) == expected


def test_images_of_one_size_are_remarked_on_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(11):
        write_image(tmp_path / "src" / f"{i:02d}.png", image(i, 10, 26 + max(0, i - 4)))
    arguments = [str(tmp_path / "src"), "--out", str(tmp_path / "out"), "--workers", "1", "--size", "16"]
    assert main(["tiles", *arguments]) == 0
    said = capsys.readouterr().out
    assert f"{tmp_path / 'src' / '00.png'} and 4 more: 10x26: its height is smaller" in said
    assert said.count("its height is smaller") == 5 and "and the like of 2 images of other sizes" in said


def test_tiles_are_cut_row_by_row_and_small_images_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole, deep, flat = image(0, 20, 26), image(1, 10, 26, np.uint16), image(2, 16, 16, channels=1)
    write_image(tmp_path / "src" / "a.x4.png", whole)
    write_image(tmp_path / "src" / "sub" / "lowx4.png", deep)
    write_image(tmp_path / "src" / "flat.jpg", flat)
    out = tmp_path / "out"
    arguments = [str(tmp_path / "src"), "--out", str(out), "--workers", "1", "--strip", "x4"]
    assert main(["tiles", *arguments, "--size", "16", "--step", "10"]) == 0
    names = [path.relative_to(out).as_posix() for path in image_files(out)]
    assert names == [*(f"a._s00{i}.png" for i in (1, 2, 3, 4)), "flat_s001.png", "sub/low_s001.png", "sub/low_s002.png"]
    corners = [(0, 0), (0, 10), (4, 0), (4, 10)]
    for number, (top, left) in enumerate(corners, 1):
        np.testing.assert_array_equal(read_image(out / f"a._s00{number}.png"), whole[top : top + 16, left : left + 16])
    np.testing.assert_array_equal(read_image(out / "sub" / "low_s002.png"), deep[:, 10:])
    assert cv2.imread(str(out / "flat_s001.png"), cv2.IMREAD_UNCHANGED).ndim == 2
    wide = "10x26: its height is smaller than a tile of 16 and kept; its width is cut into 2"
    assert f"{tmp_path / 'src' / 'sub' / 'lowx4.png'}: {wide}" in capsys.readouterr().out
    assert "kept as it is" in Tiles(16).remark(image(0, 10, 16)) and not Tiles(16).remark(image(0, 16, 17))

    # Other settings would leave old tiles among the new.
    assert main(["tiles", *arguments, "--size", "8", "--step", "10"]) == 1
    assert "was begun with" in capsys.readouterr().err
    # A source that was replaced gives fewer tiles now.
    write_image(tmp_path / "src" / "a.x4.png", whole[:16, :16])
    assert main(["tiles", *arguments, "--size", "16", "--step", "10"]) == 0
    assert len(image_files(out)) == 4
    # One that broke keeps none of its old ones.
    (tmp_path / "src" / "a.x4.png").write_bytes(b"broken")
    assert main(["tiles", *arguments, "--size", "16", "--step", "10"]) == 1
    assert f"left out: {tmp_path / 'src' / 'a.x4.png'}: " in capsys.readouterr().err
    assert len(image_files(out)) == 3


def test_what_cannot_begin_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_image(tmp_path / "src" / "a.png", image(0))
    source, out = str(tmp_path / "src"), str(tmp_path / "out")
    (tmp_path / "empty").mkdir()
    for arguments, message in [
        (["tiles", source, "--out", f"{source}/tiles"], "results would become sources"),
        (["tiles", str(tmp_path / "none"), "--out", out], "no such folder"),
        (["multiscale", str(tmp_path / "empty"), "--out", out], "there are no images"),
        (["check", str(tmp_path / "empty")], "there are no images"),
    ]:
        assert main(arguments) == 1
        assert message in capsys.readouterr().err
    write_image(tmp_path / "src" / "a.jpg", image(0))
    assert main(["lmdb", source, "--out", out]) == 1
    assert f"would get one name, rename one of each: {source}/a.jpg and {source}/a.png" in capsys.readouterr().err
    for wrong in (["--step", "0"], ["--size", "-1"]):
        with pytest.raises(SystemExit):
            main(["tiles", source, "--out", out, *wrong])
    with pytest.raises(SystemExit):
        main(["multiscale", source, "--out", out, "--scales", "1.5"])


# --- multiscale ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(75, 75), (33, 40), (80, 90), (7, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_copies_are_filtered_by_a_sinc_over_three_lobes(size: tuple[int, int], dtype: type) -> None:
    def weights(length: int, to: int) -> np.ndarray:
        step = length / to
        x = (np.arange(length) + 0.5 - (np.arange(to)[:, None] + 0.5) * step) / step
        matrix = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
        return matrix / matrix.sum(1, keepdims=True)

    top = np.iinfo(dtype).max
    for array in (image(0, 100, 100, dtype) // 2 + top // 4, image(1, 100, 100, dtype, channels=1) // 2 + top // 4):
        rows = np.tensordot(weights(100, size[0]), array.astype(np.float64), (1, 0))
        expected = np.moveaxis(np.tensordot(weights(100, size[1]), rows, (1, 1)), 0, 1).clip(0, top)
        found = lanczos(array, size)
        assert found.dtype == dtype and found.shape == expected.shape
        assert np.abs(found - expected).mean() < 0.4  # Pillow rounds 8 bits between its two passes


def test_copies_have_the_sizes_of_the_published_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Multiscale().sizes(1357, 2041) == [(1017, 1530), (678, 1020), (452, 680), (400, 601)]
    assert Multiscale().sizes(2041, 1357)[-1] == (601, 400)
    write_image(tmp_path / "src" / "a.png", image(0, 50, 61))
    write_image(tmp_path / "src" / "b.png", image(1, 20, 20))
    out = tmp_path / "out"
    arguments = ["multiscale", str(tmp_path / "src"), "--out", str(out), "--workers", "1"]
    assert main([*arguments, "--scales", "0.5", "1/3", "--shortest", "20"]) == 0
    shapes = {path.name: read_image(path).shape[:2] for path in image_files(out)}
    a = {"aT0.png": (25, 30), "aT1.png": (16, 20), "aT2.png": (20, 24)}
    assert shapes == {**a, "bT0.png": (10, 10), "bT1.png": (6, 6)}
    np.testing.assert_array_equal(read_image(out / "aT0.png"), lanczos(image(0, 50, 61), (25, 30)))
    assert "b.png: 20x20 gives no T2" in capsys.readouterr().out


# --- lmdb ------------------------------------------------------------------------------------------------------------


def test_lmdb_grows_and_leaves_out_what_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(database, "_MAP_BYTES", 2**15)
    source, out = tmp_path / "src", tmp_path / "x.lmdb"
    for i in range(12):
        write_image(source / f"sub.dir/{i:02d}.v1.png", image(i, 64, 64))
    write_image(source / "gray.png", image(20, 8, 8, channels=1))
    write_image(source / "deep.png", image(21, 8, 8, np.uint16))
    write_image(source / "alpha.png", image(22, 8, 8, channels=4))
    (source / "bad.png").write_bytes(b"no image")
    arguments = ["lmdb", str(source), "--out", str(out), "--workers", "1"]
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert f"error: left out: {source / 'bad.png'}: " in printed.err and "15 images, 0 of them" in printed.out
    meta = (out / "meta_info.txt").read_text().splitlines()
    assert meta[:3] == ["alpha.png (8,8,3) 1", "deep.png (8,8,3) 1", "gray.png (8,8,1) 1"]
    assert meta[3] == "sub.dir/00.v1.png (64,64,3) 1"
    found = run_reader(out)
    assert found == [f"{out}/{line.rsplit(' ', 2)[0].removesuffix('.png')}" for line in meta]

    # The same again has nothing to do, and what was repaired comes in.
    write_image(source / "bad.png", image(23, 8, 8))
    assert main(arguments) == 0
    assert "16 images, 15 of them from before" in capsys.readouterr().out
    write_image(tmp_path / "other" / "z.png", image(0))
    assert main(["lmdb", str(tmp_path / "other"), "--out", str(out)]) == 1
    assert "has 16 images of another folder (alpha, bad, deep, gray, sub.dir/00.v1," in capsys.readouterr().err


def run_reader(root: Path) -> list[str]:
    """Keys read with the package alone, each decoded: this process keeps no database open."""
    names = []
    with lmdb.open(str(root), readonly=True, lock=False) as environment, environment.begin() as transaction:
        for key, value in transaction.cursor():
            assert cv2.imdecode(np.frombuffer(value, np.uint8), cv2.IMREAD_UNCHANGED) is not None
            names.append(f"{root}/{key.decode()}")
    return names


def test_a_worker_that_dies_is_reported_with_what_it_did() -> None:
    with pytest.raises(OSError, match=r"a worker died .* under way were: .*9; try fewer"):
        list(parallel(os._exit, [9], workers=2))


# --- kernels ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_torchrun_shares_the_estimation_of_kernels(tmp_path: Path) -> None:
    """The pool is that of one process, and a bad image is named."""
    source = tmp_path / "src"
    for i in range(3):
        smooth = cv2.GaussianBlur(image(i, 70, 66 + 2 * i), (0, 0), 2)
        write_image(source / f"{i}.png", smooth)
    (source / "bad.png").write_bytes(b"no image")
    # One by one: after three iterations kernels are next to nothing, and the rounding of other batches shows.
    options = ("--iterations", "3", "--device", "cpu", "--scale", "2", "--batch", "1")
    alone = run("kernels", source, "--out", tmp_path / "one", *options)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    two = [*torchrun, *command("kernels", source, "--out", tmp_path / "two", *options)[2:]]
    shared = subprocess.run(two, cwd=ROOT, capture_output=True, text=True, timeout=300)
    for result in (alone, shared):
        assert result.returncode == 1 and f"left out: {source / 'bad.png'}: " in result.stderr, result.stderr
    with np.load(tmp_path / "one" / "kernels_x2.npz") as one, np.load(tmp_path / "two" / "kernels_x2.npz") as two:
        assert one["sources"].tolist() == [str(source / f"{i}.png") for i in range(3)]
        np.testing.assert_allclose(one["kernels"], two["kernels"], atol=1e-5)
        np.testing.assert_array_equal(one["flaws"], two["flaws"])
