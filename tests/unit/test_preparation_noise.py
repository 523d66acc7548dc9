"""`data.prepare noise`: which tiles are taken, and that the pool is whole whatever happens."""

import json
from pathlib import Path

import lmdb
import numpy as np
import pytest
from PIL import Image

from data.prepare import noise
from data.prepare.__main__ import main
from data.prepare.noise import Tile, chosen_tiles, tiles_of
from data.prepare.section import NoisePatches
from degradations.steps.real_noise import NoisePool
from utils.images.files import image_files, read_image, read_image_alpha, write_image


def flat(seed: int, mean: float, sigma: float, shape: tuple[int, ...] = (16, 16, 3)) -> np.ndarray:
    """Noise around a level."""
    levels = np.random.default_rng(seed).normal(mean, sigma, shape)
    return np.rint(levels).clip(0, 255).astype(np.uint8)


def beside(*tiles: np.ndarray) -> np.ndarray:
    return np.concatenate(tiles, axis=1)


def test_the_papers_rule() -> None:
    image = beside(flat(0, 100, 2), flat(1, 100, 12), flat(2, 30, 2), flat(3, 200, 2))
    found = tiles_of(NoisePatches(size=16, mean_range=(50, 150)), image)
    assert [tile.flaw for tile in found] == ["", "variance", "mean", "mean"]
    assert [(tile.top, tile.left) for tile in found] == [(0, 0), (0, 16), (0, 32), (0, 48)]
    assert len(tiles_of(NoisePatches(size=16, stride=8), image)) == 7
    assert [tile.flaw for tile in tiles_of(NoisePatches(size=16, max_variance=300), image)] == [""] * 4
    # 16 bits are judged as 8, gray as colours; the limit itself is excluded.
    deep = tiles_of(NoisePatches(size=16, mean_range=(50, 150)), image[..., 0].astype(np.uint16) * 257)
    assert [tile.flaw for tile in deep] == ["", "variance", "mean", "mean"]
    # What is constant or clipped tells nothing of noise; a few clipped pixels do not matter.
    white, specks, few = np.full((16, 16, 3), 255, np.uint8), flat(4, 254, 1), flat(5, 250, 1)
    few[0, :8] = 255
    useless = beside(white, np.full((16, 16, 3), 100, np.uint8), specks, few)
    assert [t.flaw for t in tiles_of(NoisePatches(size=16), useless)] == ["constant", "constant", "saturated", ""]
    assert [t.flaw for t in tiles_of(NoisePatches(size=16, released=True), np.tile(useless, (2, 1, 1)))] == [""] * 3
    assert tiles_of(NoisePatches(size=16, max_variance=0), np.full((16, 16), 9, np.uint8))[0].flaw == "variance"


def test_the_quantile_rule_sees_through_gradients_and_refuses_what_is_clipped() -> None:
    rule = NoisePatches("quantile", size=32, flattest=0.5)
    ramp = np.tile(np.linspace(60, 180, 32), (32, 1))[..., None] + flat(0, 0, 0, (32, 32, 3))
    ramp = np.rint(ramp + np.random.default_rng(0).normal(0, 1, ramp.shape)).astype(np.uint8)
    clipped = flat(1, 100, 1, (32, 32, 3))
    clipped[5, 6, 2] = 255
    constant, dark = np.full((32, 32, 3), 90, np.uint8), flat(2, 8, 1, (32, 32, 3))
    found = {"a": tiles_of(rule, ramp), "b": tiles_of(rule, clipped) + tiles_of(rule, constant) + tiles_of(rule, dark)}
    assert [[t.flaw for t in tiles] for tiles in found.values()] == [[""], ["saturated", "constant", "mean"]]
    assert found["a"][0].variance < 40 < tiles_of(NoisePatches(size=32), ramp)[0].variance


def test_by_the_quantile_rule_no_light_is_taken_for_noise(tmp_path: Path) -> None:
    """It would be stripes of the images that the noise is added to. In colours of equal luma, too; noise stays."""
    colours = np.linspace(-1, 1, 160)[:, None, None] * np.array([40, 0, -105])  # of one luma
    noise = np.random.default_rng(0).normal(0, 3, (160, 32, 3))
    for depth, dtype in ((1, np.uint8), (257, np.uint16)):
        write_image(tmp_path / "src" / f"{depth}.png", np.rint((120 + colours + noise) * depth).astype(dtype))
    pool = tmp_path / "pool"
    assert run(tmp_path / "src", pool, "--rule", "quantile", "--flattest", "1") == 0
    patches = sorted(pool.glob("*_0*.png"))
    assert len(patches) == 40
    for path in patches:
        patch = read_image(path) / (257 if path.name.startswith("257") else 1)
        assert (patch.std((0, 1)) < 4).all() and (patch.std((0, 1)) > 2).all(), path
        assert np.ptp(patch.mean(1), axis=0).max() < 9, path  # of rows of 16 pixels


def test_the_flattest_share_is_of_the_whole_data_set() -> None:
    found = {"a": [Tile(0, i, i, 100.0) for i in range(6)], "b": [Tile(0, i, i + 0.5, 100.0, "mean") for i in range(4)]}
    chosen = chosen_tiles(NoisePatches("quantile", flattest=0.3), found)
    assert [t.flaw for t in chosen["a"]] == ["", "", "", "variance", "variance", "variance"]  # 3 of 10
    assert [t.flaw for t in chosen["b"]] == ["mean"] * 4
    assert all(t.flaw for tiles in chosen_tiles(NoisePatches("quantile", flattest=0), found).values() for t in tiles)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "src"
    write_image(folder / "sub" / "a.png", beside(flat(0, 100, 2), flat(1, 100, 30), flat(2, 120, 2)))
    write_image(folder / "gray.png", flat(3, 90, 2, (16, 20)))
    write_image(folder / "deep.png", flat(4, 90, 2).astype(np.uint16) * 257)
    write_image(folder / "alpha.png", np.dstack([flat(5, 90, 2), flat(6, 200, 9, (16, 16))]))
    write_image(folder / "small.png", flat(7, 90, 2, (12, 40, 3)))
    return folder


def run(source: Path, out: Path, *more: str) -> int:
    return main(["noise", str(source), "--out", str(out), "--size", "16", "--workers", "1", *more])


PATCHES = ["alpha_000", "deep_000", "gray_000", "sub/a_000", "sub/a_001"]


def test_a_pool(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pool"
    assert run(source, out) == 0
    printed = capsys.readouterr()
    assert f"{out}: 5 patches of 16x16" in printed.out and "| variance |     1 |" in printed.out
    assert f"1 image is too small for a tile of 16, try a smaller size: {source / 'small.png'}" in printed.err
    about = json.loads((out / "statistics.json").read_text())
    assert about["rule"]["size"] == 16 and list(about["patches"]) == PATCHES
    second = about["patches"]["sub/a_001"]
    assert (second["source"], second["top"], second["left"]) == (str(source / "sub" / "a.png"), 0, 32)
    whole = read_image(source / "sub" / "a.png")
    np.testing.assert_array_equal(read_image(out / "sub" / "a_001.png"), whole[:, 32:])
    assert second["variance"] == pytest.approx(np.asarray(Image.fromarray(whole[:, 32:]).convert("L")).var())
    assert read_image_alpha(out / "gray_000.png")[2] and read_image_alpha(out / "alpha_000.png")[1] is None
    assert read_image(out / "deep_000.png").dtype == np.uint16
    assert NoisePool.read(str(out)).names == tuple(f"{name}.png" for name in PATCHES)
    assert (out / "sheet.png").is_file()


def test_a_pool_in_a_database(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.lmdb"
    for _ in range(2):
        assert run(source, out) == 0
        with lmdb.open(str(out), readonly=True, lock=False) as environment, environment.begin() as transaction:
            assert [bytes(key).decode() for key, _ in transaction.cursor()] == PATCHES
    write_image(source / "gray.png", flat(3, 90, 40, (16, 20)))  # no longer flat
    assert run(source, out) == 0
    assert NoisePool.read(str(out)).names == tuple(PATCHES[:2] + PATCHES[3:])
    assert not (out / ".patches").exists() and list(json.loads((out / "statistics.json").read_text())["patches"])
    capsys.readouterr()


def test_a_stopped_collection_goes_on_and_old_patches_go(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, measure, measured = tmp_path / "pool", noise._measure, []

    def counting(job: NoisePatches, item: tuple[str, Path]) -> object:
        if len(measured) == 2:
            raise KeyboardInterrupt
        measured.append(item[0])
        return measure(job, item)

    monkeypatch.setattr(noise, "_measure", counting)
    assert run(source, out) == 130 and not (out / "statistics.json").exists()
    monkeypatch.setattr(noise, "_measure", lambda job, item: (measured.append(item[0]), measure(job, item))[1])
    assert run(source, out) == 0
    assert measured == ["alpha", "deep", "gray", "small", "sub/a"]

    before = {path: path.stat().st_mtime_ns for path in image_files(out)}
    write_image(source / "sub" / "a.png", beside(flat(10, 100, 40), flat(11, 100, 2)))
    (source / "gray.png").unlink()
    (source / "deep.png").write_bytes(b"broken")
    capsys.readouterr()
    assert run(source, out) == 1
    assert f"left out: {source / 'deep.png'}: " in capsys.readouterr().err
    after = {path: path.stat().st_mtime_ns for path in image_files(out)}
    assert sorted(path.relative_to(out).as_posix() for path in after) == ["alpha_000.png", "sheet.png", "sub/a_000.png"]
    assert before[out / "alpha_000.png"] == after[out / "alpha_000.png"]
    np.testing.assert_array_equal(read_image(out / "sub" / "a_000.png"), read_image(source / "sub" / "a.png")[:, 16:])


def test_what_cannot_be_collected_is_said(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, message in [
        (["--max-variance", "0.1"], "no tile of 5 images passes (6 by variance); a smaller size, other limits or"),
        (
            ["--size", "300", "--rule", "quantile"],
            "(none is large enough); a smaller size, other limits or a larger `fl",
        ),
    ]:
        assert run(source, tmp_path / f"pool{len(message)}", *more) == 1
        assert message in capsys.readouterr().err
    for more, message in [
        (["--rule", "mean", "--flattest", "2"], "--rule: found 'mean'"),
        (["--mean-range", "9", "3"], "--mean-range: found [9, 3]: the low end 9.0 is above the high end 3.0"),
    ]:
        with pytest.raises(SystemExit, match="2"):
            run(source, tmp_path / f"pool{len(message)}", *more)
        assert message in capsys.readouterr().err
    assert run(source, source / "pool") == 1
    assert "results would become sources" in capsys.readouterr().err
