"""Metrics on the command line of `test.py` and in its option files, and sets of real images without ground truths."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import test as program
from data.sources.photos import Photos
from tests.run.test_test_py import SRVGG, save_ours
from utils.images.files import read_image, write_image
from utils.metrics.niqe import block_features, fit_model, luma


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ground truths, small real images, and a NIQE model."""
    root, photos = tmp_path_factory.mktemp("metrics"), Photos("validation")
    images = [photos.read(i) for i in range(len(photos))]
    fit_model([luma(image.astype(np.float64)) for image in images], sharpness=0)[0].save(root / "niqe.npz")
    write_image(root / "gt" / "a.png", images[0][:200, :300])
    write_image(root / "real" / "b.jpg", images[1][:101, :151])
    write_image(root / "real" / "deeper" / "c.png", images[2][:120, :100, :1].repeat(3, 2))
    return root


def run(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["test.py", *arguments, "--device", "cpu"])
    return program.main()


def test_metrics_on_the_command_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = "--weights bicubic --scale 2 --data a=gt --real photos=real --no-images -o one"
    metrics = ["--metrics", "psnr", "natural=niqe:model=niqe.npz", "ssim"]
    assert run(folder, monkeypatch, *arguments.split(), *metrics) == 0
    tree = json.loads((folder / "one" / "results.json").read_text())
    given, real = (one["rows"]["bicubic"] for one in tree["sets"])
    columns = ["PSNR RGB", "SSIM RGB", "PSNR Y", "NATURAL Y", "SSIM Y"]
    assert list(given["mean"]) == columns
    assert list(real["images"]) == ["b", "c"] and list(real["mean"]) == ["NATURAL Y"]
    values = [one["NATURAL Y"] for one in real["images"].values()]
    assert real["mean"]["NATURAL Y"] == pytest.approx(np.mean(values)) and 0 < min(values) < max(values)
    text = (folder / "one" / "results.md").read_text()
    assert "2 images, x2, low-quality images given, without ground truths" in text
    assert "lower is better: NATURAL" in text
    assert [line.count("|") for line in text.splitlines() if line.startswith("| photos")] == [3]
    lines = list(csv.DictReader((folder / "one" / "results.csv").open()))
    mean = next(line for line in lines if line["set"] == "photos" and not line["image"])
    assert mean["PSNR RGB"] == "" and float(mean["NATURAL Y"]) == pytest.approx(real["mean"]["NATURAL Y"])


def test_metrics_in_an_option_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file.yml").write_text(
        "{name: file, scale: 2, real: {photos: real}, metrics: {niqe: {type: niqe, model: niqe.npz}}}"
    )
    weights = [f"{name}={save_ours(folder / f'{name}.safetensors', SRVGG, seed)}" for seed, name in enumerate("xy")]
    assert run(folder, monkeypatch, "--opt", "file.yml", "--weights", *weights) == 0
    tree = json.loads((folder / "results" / "file" / "results.json").read_text())
    assert list(tree["protocols"]) == ["Y"]  # none for RGB, since nothing is measured there
    assert list(tree["sets"][0]["rows"]) == ["bicubic", "x", "y"]
    height, width = read_image(folder / "results" / "file" / "photos" / "strips" / "b.png").shape[:2]
    assert height > 202 and 4 * 302 <= width < 5 * 302  # LQ enlarged, bicubic, x and y; no ground truth
    image = read_image(folder / "results" / "file" / "photos" / "bicubic" / "b.png")
    inner = luma(image.astype(np.float64))[2:-2, 2:-2]  # the border of the protocol
    expected = program.metric_specs({"niqe": {"type": "niqe", "model": "niqe.npz"}})["niqe"].component()
    found = tree["sets"][0]["rows"]["bicubic"]["images"]["b"]["NIQE Y"]
    assert found == pytest.approx(expected(inner[..., None], None)) and len(block_features(inner)[0]) == 6


BY_HAND = ("--weights", "bicubic", "--scale", "2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "a=gt", "--metrics", "niqe"], "metrics.niqe: model: niqe needs a file"),
        (["--data", "a=gt", "--metrics", "niqe:model=no.npz"], "metrics.niqe: model: there is no file no.npz"),
        (["--data", "a=gt", "--metrics", "nique"], "metrics.nique.type: no metric is called 'nique'; did you mean"),
        (["--data", "a=gt", "--metrics", "psnr:peak=1"], "metrics.psnr.peak: unknown option"),
        (["--data", "a=gt", "--metrics", "psnr", "psnr"], "--metrics psnr: expected [NAME=]TYPE"),
        (["--data", "a=gt", "--metrics", "niqe:model"], "--metrics niqe:model: expected [NAME=]TYPE"),
        (["--real", "r=real"], "real.r: these images have no ground truths, and all metrics (PSNR, SSIM) need them"),
        (["--real", "r=none", "--metrics", "psnr"], "real.r: none: no such folder"),
        (["--real", "real"], "--real real: expected NAME=LR"),
        (["--real", "x/y=real"], "real.x/y: the name of a set becomes a folder"),
        (["--data", "a=gt", "--real", "a=real"], "real.a: is the name of a set in `data` too"),
    ],
)
def test_refuses(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert run(folder, monkeypatch, *BY_HAND, *arguments) == 1
    assert message in capsys.readouterr().err


def test_a_real_image_too_small_for_the_metric_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(folder / "tiny" / "dot.png", np.zeros((20, 20, 3), np.uint8))
    arguments = ("--real", "t=tiny", "--metrics", "niqe:model=niqe.npz")
    assert run(folder, monkeypatch, *BY_HAND, *arguments) == 1
    error = capsys.readouterr().err
    assert "dot.png: found 36x36 pixels, expected at least a block 96x96" in error
