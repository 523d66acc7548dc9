"""What a paper takes from a benchmark: enlarged crops, tables in LaTeX, a summary; and what `--weights RUN` means."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import test as program
from models.benchmarking.figures import Crop, latex_table, write_figure
from models.network import NETWORKS
from models.restoring.generator import correlation, interpolate, load_generator
from models.restoring.nonblind import Assumption
from models.weights.files import weight_files
from tests.run.test_test_py import SRVGG, network, picture, save_ours
from utils.images.files import read_image, write_image
from utils.options.fields import OptionError
from utils.storage.checkpoint import Checkpoints


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two ground truths and two checkpoints."""
    for name in ("a", "under_score"):
        write_image(tmp_path / "gt" / f"{name}.png", picture(0, 64, 80))
    for seed, name in enumerate("xy"):
        save_ours(tmp_path / f"{name}.safetensors", SRVGG, seed)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    by_hand = ("--weights", "x.safetensors", "y.safetensors", "--data", "set=gt", "-o", "out", "--device", "cpu")
    monkeypatch.setattr(sys, "argv", ["test.py", *by_hand, *arguments])
    return program.main()


def test_crops_tables_and_summary(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "--no-images", "--crop", "a:8,4,24,16", "set/under_score:0,0,10,10") == 0
    figures = sorted(path.name for path in (folder / "out" / "figures").iterdir())
    assert figures == ["set_a_1.pdf", "set_a_1.png", "set_under_score_2.pdf", "set_under_score_2.png"]
    assert (folder / "out" / "figures" / "set_a_1.pdf").read_bytes().startswith(b"%PDF")
    drawn = read_image(folder / "out" / "figures" / "set_a_1.png").astype(int)
    red = (drawn[..., 0] > 200) & (drawn[..., 1:].max(-1) < 60)
    assert red.any(), "the frame around the crop"
    with (folder / "out" / "summary.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["set"], line["checkpoint"], line["images"]) for line in lines] == [
        ("set", row, "2") for row in ("bicubic", "x", "y")
    ]
    with (folder / "out" / "results.csv").open() as file:
        means = [line for line in csv.DictReader(file) if not line["image"]]
    assert [line["PSNR Y"] for line in lines] == [line["PSNR Y"] for line in means]
    table = (folder / "out" / "results.tex").read_text()
    assert table.startswith("% benchmark: measured by RGB: protocol basicsr") and r"\begin{tabular}{lrrrr}" in table
    best = rf"\textbf{{{float(lines[0]['PSNR RGB']):.2f}}}"
    assert f"bicubic & {best} &" in table and table.count(r"\textbf") == 4


@pytest.mark.parametrize(
    ("crop", "message"),
    [
        ("b:0,0,8,8", "--crop b:0,0,8,8: no set has an image of this name; there are set/a"),
        ("a:0,0,8", "--crop a:0,0,8: expected IMAGE:X,Y,W,H"),
        ("a:0,0,8,0", "expected IMAGE:X,Y,W,H"),
        ("a:76,0,8,8", "--crop a:76,0,8,8: reaches beyond the image, which is 80x64 (width x height)"),
    ],
)
def test_crops_that_are_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], crop: str, message: str
) -> None:
    assert run(monkeypatch, "--crop", crop) == 1
    assert message in capsys.readouterr().err


def test_a_crop_of_a_smaller_image_is_the_same_place() -> None:
    low = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    high = low.repeat(4, 0).repeat(4, 1)
    crop = Crop.parse("x:4,8,8,4")
    np.testing.assert_array_equal(crop.cut(low, 16).repeat(4, 0).repeat(4, 1), crop.cut(high, 16))


@pytest.mark.parametrize("corner", ["6,4,40,10", "6,4,10,40", "6,4,16,16"])
def test_a_crop_is_not_stretched(tmp_path: Path, corner: str) -> None:
    """Also where a smaller image has no whole pixels for it."""
    images = {"LQ": np.zeros((31, 41, 3), np.uint8), "GT": np.zeros((62, 82, 3), np.uint8)}
    for image in images.values():
        image[..., 1] = 255
    crop = Crop.parse(f"x:{corner}")
    write_figure(tmp_path / "figure", crop, images)
    drawn = read_image(tmp_path / "figure.png").astype(int)
    green = (drawn[..., 1] > 200) & (drawn[..., ::2].max(-1) < 60)
    inner = np.diff(np.pad(green.any(0), 1).astype(int))  # the whole image, then the column of crops
    left, right = (int(np.flatnonzero(inner == step)[-1]) for step in (1, -1))
    edges = np.flatnonzero(np.diff(np.pad(green[:, (left + right) // 2], 1).astype(int)))
    for above, below in edges.reshape(-1, 2):
        assert abs((right - left) / (below - above) * crop.height / crop.width - 1) < 0.03


def test_latex_of_names() -> None:
    written = latex_table(["", "x", "y"], [["a_b & 5%", "1.00", "2.00"]], [[True, False]])
    assert r"a\_b \& 5\% & \textbf{1.00} & 2.00 \\" in written


def test_a_run_stands_for_its_newest_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    with pytest.raises(OptionError, match="no network_g_ema"):
        weight_files(tmp_path, "ema")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(OptionError, match="run: this run has no checkpoint yet"):
        weight_files(tmp_path / "run", "ema")
    for stage, iteration in (("psnr", 20), ("gan", 5)):
        state = network(SRVGG).state_dict()
        checkpoints.save(stage, iteration, {"network_g": state, "network_g_ema": state}, {})
    assert weight_files(tmp_path / "run", "ema") == [
        tmp_path / "run" / "checkpoints" / "gan_00000005" / "network_g_ema.safetensors"
    ]


def test_a_kernel_of_another_scale_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photo_kernel_x2.npy").write_bytes(b"")
    np.save(tmp_path / "photo_kernel_x2.npy", np.full((3, 3), 1 / 9))
    assume = Assumption(path=str(tmp_path / "photo_kernel_x2.npy"))
    assert assume.conditions(2)["kernel"].shape == (1, 3, 3)
    with pytest.raises(OptionError, match="is for scale 2, but images are enlarged by 4; use --scale 2"):
        assume.conditions(4)


def test_mixtures_of_unrelated_networks_are_warned_of(tmp_path: Path) -> None:
    first, second = (load_generator(save_ours(tmp_path / f"{s}.safetensors", SRVGG, s)) for s in (0, 1))
    warnings: list[str] = []
    interpolate(first, tmp_path / "1.safetensors", 0.5, warn=warnings.append)
    assert len(warnings) == 1 and "trained apart" in warnings[0]
    tuned = NETWORKS.build(SRVGG)
    noise = torch.Generator().manual_seed(0)
    tuned.load_state_dict(
        {k: v + 0.02 * torch.randn(v.shape, generator=noise) for k, v in first.network.state_dict().items()}
    )
    torch.save(tuned.state_dict(), tmp_path / "tuned.pth")
    interpolate(first, tmp_path / "tuned.pth", 0.5, warn=warnings.append)
    assert len(warnings) == 1 and correlation(first.network, tuned) > 0.9
    assert abs(correlation(first.network, second.network)) < 0.2
