"""The real `test.py` with networks that are told blur and noise: grids, benchmarks, and images to restore."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from degradations.kernels.families import isotropic_gaussian, shift_to_upper_left
from models.benchmarking.benchmark import Grid, check_benchmark
from models.benchmarking.grid import grid_cells
from models.restoring.files import restore_array
from models.restoring.generator import at_scale, load_generator
from models.restoring.nonblind import Assumption
from models.restoring.restorer import Restorer
from tests.helpers import ROOT, SHARED
from tests.programs import call
from tests.run.test_test_py import picture, run, save_ours
from utils.images.files import read_image, write_image
from utils.options import files as option_files
from utils.options.fields import OptionError

USRNET = {"type": "usrnet", "scale": 3, "n_iter": 2, "h_nc": 8, "nc": [8, 8, 8, 8], "nb": 1, "init": "identity"}
BLIND = {"type": "srvgg", "scale": 2, "num_feat": 4, "num_conv": 1}
TABLES = ROOT / "options" / "test"
GRID = """
name: tiny
scale: 2
data: {V: {type: folder, root: gt, multiple: 6}}
degradation:
  type: classical
  steps:
    blur: {type: kernel_bank, path: k.npy}
    noise: {levels: continuous, level_range: [2, 2], clean_prob: 0}
metrics: {psnr: {type: psnr}}
baselines: {closed form: {network: {type: closed_form}, choose: {alpha: [0.001, 0.1]}}}
grid:
  rows: {x2: {}, x3: {scale: 3}}
  columns: {k1: {degradation.steps.blur.indices: [0]}, k2: {degradation.steps.blur.indices: [1]}}
  published: {v: {images: 3, rows: {x3: {USRNet: [30.5, null]}}}, W: {images: 3, rows: {x2: {Other: [1, 2]}}}}
"""


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return save_ours(tmp_path / "usrnet.safetensors", USRNET)


def gaussians(path: Path, *widths: float) -> None:
    np.save(path, np.stack([isotropic_gaussian(9, width) for width in widths]))


def mat_file(path: Path, kernels: list[np.ndarray]) -> None:
    """As KAIR's: a cell array of one row."""
    cells = np.empty((1, len(kernels)), object)
    cells[0, :] = kernels
    path.parent.mkdir(parents=True)
    scipy.io.savemat(path, {"kernels": cells})


# --- benchmarks ------------------------------------------------------------------------------------------------------


def test_a_grid_is_the_same_on_one_rank_and_on_two(tmp_path: Path, weights: Path) -> None:
    gaussians(tmp_path / "k.npy", 0.8, 1.6)
    for seed in range(3):
        write_image(tmp_path / "gt" / f"{seed}.png", picture(seed, 49, 60))
    (tmp_path / "tiny.yml").write_text(GRID)
    arguments = ("--opt", "tiny.yml", "--weights", f"ours={weights}", "-o")
    first = run(*arguments, "one", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    second = call("test", *arguments, "two", "--device", "cpu", cwd=tmp_path, ranks=2)
    assert second.returncode == 0, second.stderr
    texts = [(tmp_path / name / "results.md").read_text() for name in ("one", "two")]
    assert texts[0] == texts[1] and texts[0] in first.stdout
    cells = json.loads((tmp_path / "one" / "results.json").read_text())["cells"]
    found = {(cell["row"], cell["method"], cell["column"]): cell["PSNR RGB"] for cell in cells}
    assert len(found) == 2 * 2 * 3 == len(cells)
    for row in ("x2", "x3"):
        for column in ("k1", "k2"):
            assert found[row, "closed form", column] > found[row, "bicubic", column] + 1
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in texts[0].splitlines() if line.startswith("|")]
    assert rows[0] == ["V", "method", "k1", "k2"]
    assert [row[:2] for row in rows[2:]] == [
        *(["x2", method] for method in ("bicubic", "closed form", "ours")),
        *(["x3", method] for method in ("bicubic", "closed form", "ours", "USRNet (published)")),
    ]
    assert rows[-1][2:] == ["30.50", "-"] and "Other" not in texts[0]


def test_bicubics_table_with_kernels_from_a_mat_file(tmp_path: Path, weights: Path) -> None:
    """The shipped file, with pictures and kernels of ours; every scale is told its own kernel."""
    bank = [shift_to_upper_left(isotropic_gaussian(25, 0.45 * scale), scale) for scale in (2, 3, 4)]
    mat_file(tmp_path / "datasets" / "kernels" / "kernels_bicubicx234.mat", bank)
    for scale in (2, 3, 4):
        for name, count in (("Set5", 5), ("Set14", 1)):
            folder = tmp_path / "datasets" / name / f"x{scale}"
            for seed in range(count):
                gt = picture(seed, 48, 60)
                write_image(folder / "HR" / f"{seed}.png", gt)
                write_image(folder / "LR" / f"{seed}.png", gt[::scale, ::scale])
    done = run("--opt", TABLES / "usrnet_bicubic.yml", "--weights", weights, "-o", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    set5, set14 = (tmp_path / "out" / "results.md").read_text().split("## ")[1:]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in set5.splitlines() if line.startswith("|")]
    assert lines[0] == ["Set5", "method", "PSNR RGB", "PSNR Y"] and len(lines) == 2 + 3 * 4
    assert [line[3] for line in lines if line[1] == "USRNet (published)"] == ["37.72", "34.45", "32.45"]
    assert "published" not in set14, "one image is not the paper's set"


@pytest.mark.parametrize(("name", "cells"), [("usrnet_table", 9 * 12), ("usrnet_deblur", 3 * 12)])
def test_shipped_grids(name: str, cells: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mat_file(tmp_path / "datasets" / "kernels" / "kernels_12.mat", [isotropic_gaussian(25, 1)] * 12)
    monkeypatch.chdir(tmp_path)
    tree = option_files.load(TABLES / f"{name}.yml")
    grid = check_benchmark(tree, name).grid
    assert grid is not None and len(grid_cells(tree, grid, name)) == cells


def test_a_grid_that_does_not_fit_its_published_numbers(tmp_path: Path) -> None:
    gaussians(tmp_path / "k.npy", 0.8, 1.6)
    write_image(tmp_path / "gt" / "a.png", picture(0, 48, 60))
    (tmp_path / "tiny.yml").write_text(GRID.replace("[1, 2]", "[1]"))
    done = run("--opt", "tiny.yml", cwd=tmp_path)
    assert done.returncode == 1 and "grid.published.W.rows.x2: expected a row of the grid" in done.stderr


def test_sets_that_tell_nothing(tmp_path: Path, weights: Path) -> None:
    """Pairs are told what is assumed, at the scale asked for; without that, the error says how."""
    gt = picture(0, 40, 48)
    write_image(tmp_path / "gt" / "a.png", gt)
    write_image(tmp_path / "lq" / "a.png", gt[::2, ::2])
    blind = save_ours(tmp_path / "blind.safetensors", BLIND)  # is told nothing, and may stand beside
    arguments = ("--weights", f"ours={weights}", blind, "--data", "pairs=gt,lq", "--scale", "2", "-o", "out")
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 1 and "pairs, " in done.stderr and "--kernel-width W or --kernel FILE" in done.stderr
    done = run(*arguments, "--kernel-width", "0.9", "--noise-level", "4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "does not tell its kernel: a Gaussian of width 0.9, noise level 4" in done.stdout
    apply = Restorer(at_scale(load_generator(weights), 2), assume=Assumption(width=0.9, noise_level=4))
    expected = restore_array(apply, gt[::2, ::2])
    np.testing.assert_array_equal(read_image(tmp_path / "out" / "pairs" / "ours" / "a.png"), expected)


# --- restoring images ------------------------------------------------------------------------------------------------


def test_images_at_the_scale_that_is_asked_for(tmp_path: Path, weights: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        write_image(tmp_path / "in" / f"{name}.png", picture(seed, 33, 40))
    gaussians(tmp_path / "k.npy", 0.8, 1.6)
    image = ("--weights", weights, "-i", "in", "--noise-level", "2", "--scale", "2", "--tile", "24", "--overlap", "8")
    for out, kernel, assume in (
        ("wide", ("--kernel-width", "1.5"), Assumption(width=1.5, noise_level=2)),
        ("file", ("--kernel", "k.npy:1"), Assumption(path=str(tmp_path / "k.npy"), index=1, noise_level=2)),
    ):
        done = run(*image, *kernel, "-o", out, cwd=tmp_path)
        assert done.returncode == 0 and "restoring x2" in done.stdout + done.stderr, done.stderr
        apply = Restorer(at_scale(load_generator(weights), 2), assume=assume, tile=24, overlap=8)
        for name, seed in (("a", 0), ("b", 1)):
            expected = restore_array(apply, picture(seed, 33, 40))
            np.testing.assert_array_equal(read_image(tmp_path / out / f"{name}.png"), expected)


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ((), 1, "the network needs kernel and sigma"),
        (("--noise-level", "2"), 1, "--kernel-width, --kernel: found neither"),
        (("--kernel-width", "1", "--kernel", "k.npy"), 1, "found both"),
        (("--kernel-width", "0"), 2, "--kernel-width: found 0"),
        (("--kernel-width", "1", "--noise-level", "-1"), 2, "--noise-level: found -1"),
        (("--kernel-width", "1", "--noise-level", "256"), 2, "--noise-level: found 256"),
        (("--kernel-width", "1", "--scale", "0"), 2, "--scale: found 0"),
        (("--kernel-width", "1", "--scale", "40"), 1, "found scale 40, expected 1 to 12"),
        (("--kernel", "k.npy:2"), 1, "error: --kernel: found index 2, but k.npy holds 2 kernels"),
        (("--kernel", "k.npy"), 1, "error: --kernel: found no index, but k.npy holds 2 kernels, counted from 0"),
        (("--kernel", "none.npy"), 1, "none.npy: holds no kernels"),
        (("--kernel", "large.npy"), 1, "a.png: found a blur kernel of 99x99"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], status: int, words: str, tmp_path: Path, weights: Path) -> None:
    write_image(tmp_path / "a.png", picture(0, 10, 11))
    gaussians(tmp_path / "k.npy", 0.8, 1.6)
    np.save(tmp_path / "none.npy", np.zeros((0, 5, 5)))
    np.save(tmp_path / "large.npy", isotropic_gaussian(99, 9))
    done = run("-i", "a.png", "-o", "out.png", "--weights", weights, *arguments, cwd=tmp_path)
    assert done.returncode == status and words in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "out.png").exists()


def test_blind_networks_take_no_kernel(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", picture(0, 10, 11))
    call = ("-i", "a.png", "-o", "out.png", "--weights", save_ours(tmp_path / "blind.safetensors", BLIND))
    done = run(*call, "--kernel-width", "1", cwd=tmp_path)
    assert done.returncode == 1 and "this network is blind" in done.stderr
    done = run(*call, "--scale", "3", cwd=tmp_path)
    assert done.returncode == 1 and "this network has scale 2 and no other" in done.stderr


@pytest.mark.skipif(not (SHARED / "data" / "kernels").is_dir(), reason="needs the published kernels in ../shared")
def test_mat_files_are_read_where_they_lie(tmp_path: Path, weights: Path) -> None:
    write_image(tmp_path / "a.png", picture(0, 33, 40))
    call = ("-i", "a.png", "-o", "out.png", "--weights", weights, "--scale", "3", "--kernel")
    done = run(*call, f"{SHARED / 'data' / 'kernels' / 'kernels_bicubicx234.mat'}:1", cwd=tmp_path)
    assert done.returncode == 0 and read_image(tmp_path / "out.png").shape == (99, 120, 3), done.stderr
    done = run(*call, f"{SHARED / 'data' / 'kernels' / 'Levin09.mat'}:0", cwd=tmp_path)
    if importlib.util.find_spec("h5py") is None:
        assert done.returncode == 1 and "h5py" in done.stderr and "Traceback" not in done.stderr
    else:
        assert done.returncode == 0, done.stderr


def test_what_no_cell_can_have_of_its_own() -> None:
    tree = option_files.load(TABLES / "usrnet_table.yml", ["grid.rows.x2.protocol=kair"])
    with pytest.raises(OptionError, match="row 'x2', column 'k1': protocol: is the same for all cells"):
        grid_cells(tree, Grid({"x2": {"protocol": "kair"}}, {"k1": {}}), "table")


def test_an_image_that_the_degradation_refuses_is_named(tmp_path: Path, weights: Path) -> None:
    write_image(tmp_path / "gt" / "a.png", picture(0, 20, 20))
    done = run("--weights", weights, "--scale", "2", "--data", "S=gt", "--degradation", "classical", cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "S, gt/a.png: a kernel of 25x25 is larger than the image of 20x20" in done.stderr


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    done = call("test", "--data", "S=gt", "--device", "cuda:7", cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("error: device: GPU 7 is asked for")
