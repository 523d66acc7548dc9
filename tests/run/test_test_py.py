"""The real `test.py`: benchmarks and restores on the CPU, with tiny networks."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from data.sources.paired import Paired
from models import NETWORKS, Network
from models.benchmarking.benchmark import image_names
from models.restoring.files import restoration_targets, restore_array, restore_files
from models.restoring.generator import bicubic_generator, interpolate, load_generator
from models.restoring.restorer import Restorer, ensemble
from models.weights.files import checkpoint_names
from tests.helpers import ROOT, SHARED
from tests.programs import call
from utils.images.files import read_image, read_image_alpha, write_image
from utils.logging import Console
from utils.options.fields import OptionError

SRVGG = {"type": "srvgg", "scale": 2, "num_feat": 8, "num_conv": 1}


def run(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return call("test", *arguments, "--device", "cpu", cwd=cwd)


def test_ctrl_c_ends_restoring_in_words(tmp_path: Path) -> None:
    for i in range(100):
        write_image(tmp_path / "in" / f"{i:02d}.png", picture(i, 64, 64))
    weights = save_ours(tmp_path / "network.safetensors", SRVGG)
    command = [sys.executable, str(ROOT / "test.py"), "-i", "in", "-o", "out", "--weights", str(weights), "--tile", "8"]
    command += ["--overlap", "4", "--device", "cpu"]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    listening = partial(signal.signal, signal.SIGINT, signal.default_int_handler)  # a shell's background jobs do not
    process = subprocess.Popen(command, cwd=tmp_path, preexec_fn=listening, **piped)
    while process.poll() is None and not list(tmp_path.glob("out/[0-9]*.png")):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted; with --skip-existing" in words and "Traceback" not in words
    assert 1 <= len(list(tmp_path.glob("out/*.png"))) < 100 and not list(tmp_path.glob("out/*.tmp"))


def picture(seed: int, height: int = 32, width: int = 40, dtype: type = np.uint8) -> np.ndarray:
    """Smooth colours with some noise."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.random((4, 5, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    noisy = np.clip(coarse + 0.03 * rng.standard_normal((height, width, 3)), 0, 1)
    return np.rint(noisy * np.iinfo(dtype).max).astype(dtype)


def network(options: dict[str, Any], seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return NETWORKS.build(options)


def save_ours(path: Path, options: dict[str, Any], seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(network(options, seed).state_dict(), path, metadata={"network": json.dumps(options)})
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint folder as training leaves it."""
    folder = tmp_path / "run" / "checkpoints" / "psnr_00001200"
    save_ours(folder / "network_g.safetensors", SRVGG, seed=1)
    save_ours(folder / "network_g_ema.safetensors", SRVGG, seed=2)
    return folder


# --- benchmarks --------------------------------------------------------------------------------------------------


def test_several_checkpoints_on_pairs_and_on_ground_truths(tmp_path: Path, checkpoint: Path) -> None:
    for seed, name in enumerate(("a", "b")):
        gt = picture(seed, 33, 40)  # one row more than twice the low-quality image
        write_image(tmp_path / "gt" / f"{name}.png", gt)
        write_image(tmp_path / "lq" / f"{name}.png", gt[:32:2, ::2])
    esrgan = {"type": "rrdbnet", "scale": 2, "num_feat": 4, "num_block": 1, "num_grow_ch": 4, "upsampling": "unshuffle"}
    torch.save({"params": network(esrgan).state_dict()}, tmp_path / "published.pth")
    result = run(
        *("--weights", checkpoint, "mine=published.pth", "bicubic", "--weights-of", "both"),
        *("--data", "pairs=gt,lq", "degraded=gt", "--degradation", "bsrgan", "--seed", "3", "-o", "out"),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    out = tmp_path / "out"
    assert (out / "results.md").read_text() in result.stdout
    assert "protocol basicsr_y (Y, border = scale)" in result.stdout
    assert "2 ground truths cut at the bottom and right to a multiple of 2" in result.stdout
    names = ["bicubic", "psnr_00001200/ema", "psnr_00001200/raw", "mine"]
    tree = json.loads((out / "results.json").read_text())
    pairs, degraded = tree["sets"]
    assert list(pairs["rows"]) == names
    assert list(degraded["rows"]) == ["bicubic", "bicubic, smoothed", *names[1:]]
    assert pairs["low_quality"].startswith("given") and degraded["low_quality"] == "made by `bsrgan`, seed 3"
    assert (
        list(tree["checkpoints"]) == names[1:] and tree["checkpoints"]["mine"]["network"]["upsampling"] == "unshuffle"
    )
    gt = read_image(tmp_path / "gt" / "a.png")[2:30, 2:38].astype(float)
    for name in names:  # the table's numbers are those of the images
        sr = read_image(out / "pairs" / name / "a.png")[2:-2, 2:-2].astype(float)
        psnr = 10 * np.log10(255**2 / np.mean((sr - gt) ** 2))
        assert pairs["rows"][name]["images"]["a"]["PSNR RGB"] == pytest.approx(psnr, abs=1e-9)
    assert (out / "degraded" / "strips" / "b.png").exists()
    lines = list(csv.DictReader((out / "results.csv").open()))
    assert len(lines) == (4 + 5) * (2 + 1)
    mean = next(line for line in lines if line["checkpoint"] == "mine" and not line["image"])
    assert float(mean["SSIM Y"]) == pytest.approx(pairs["rows"]["mine"]["mean"]["SSIM Y"])


def test_option_files(tmp_path: Path, checkpoint: Path) -> None:
    """A training file gives its validation sets, a test file its data; numbers of equal sets are equal."""
    write_image(tmp_path / "gt" / "a.png", picture(0))
    training = """
        name: tiny
        scale: 2
        network_g: {type: srvgg, num_feat: 8, num_conv: 1}
        degradation: {type: bsrgan}
        data:
          {train: {x: {type: folder, root: gt}}, validation: {v: {type: folder, root: gt}}, crop_size: 8, batch_size: 1}
        stages: {psnr: {type: psnr, iterations: 1, losses: {l1: {type: l1}}}}
    """
    testing = f"""
        name: small
        scale: 2
        data: {{v: {{type: folder, root: gt, degradation: {{type: bsrgan}}}}, plain: {{type: folder, root: gt}}}}
        weights: {{second: "{checkpoint}"}}
    """
    (tmp_path / "train.yml").write_text(training)
    (tmp_path / "small.yml").write_text(testing)
    first = run("--opt", "train.yml", "--weights", f"first={checkpoint}", "--no-images", cwd=tmp_path)
    second = run("--opt", "small.yml", "--metrics", "psnr", cwd=tmp_path)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    one, two = (json.loads((tmp_path / "results" / name / "results.json").read_text()) for name in ("tiny", "small"))
    assert [s["low_quality"] for s in one["sets"]] == ["made by `bsrgan`, as in training, seed 0"]
    assert "the default" in two["sets"][1]["low_quality"] and "bicubic, smoothed" not in two["sets"][1]["rows"]
    psnr = [t["sets"][0]["rows"][n]["mean"]["PSNR Y"] for t, n in ((one, "first"), (two, "second"))]
    assert psnr[0] == psnr[1]
    assert not (tmp_path / "results" / "tiny" / "v").exists() and (tmp_path / "results" / "small" / "v").exists()


def test_additions_by_option_file_and_by_command_line(tmp_path: Path, checkpoint: Path) -> None:
    """They change the numbers, alike, and the table says so."""
    write_image(tmp_path / "gt" / "a.png", picture(0))
    tree: dict[str, Any] = {"name": "plain", "scale": 2, "data": {"v": {"type": "folder", "root": "gt"}}}
    tree["weights"] = {"one": str(checkpoint)}
    added = {**tree, "name": "added", "self_ensemble": True, "back_projection": {"weight": 0.3}}
    found = {}
    for name, content, more in (
        ("plain", tree, ()),
        ("added", added, ()),
        ("called", {**tree, "name": "called"}, ("--self-ensemble", "--back-projection", "0.3")),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
        done = run("--opt", f"{name}.json", "--no-images", *more, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found[name] = json.loads((tmp_path / "results" / name / "results.json").read_text())["sets"][0]["rows"]["one"]
        says = "Added to checkpoints: back-projection (weight 0.3, 1 times, down: bicubic)"
        assert (says in (tmp_path / "results" / name / "results.md").read_text()) == (name != "plain")
    assert found["added"] == found["called"] != found["plain"]


def test_pairs_that_do_not_match_are_all_listed(tmp_path: Path) -> None:
    for name, size in {"good": (33, 41), "large": (34, 40), "small": (31, 40), "alone": (32, 40)}.items():
        write_image(tmp_path / "gt" / f"{name}.png", picture(0, *size))
        write_image(tmp_path / "lq" / f"{name.replace('alone', 'other')}x2.jpg", picture(0, 16, 20))
    with pytest.raises(ValueError, match="4 of the images do not pair at scale 2") as error:
        Paired(str(tmp_path / "gt"), str(tmp_path / "lq"), pattern="{}x2", scale=2)
    text = str(error.value)
    assert f"large.png is 34x40, expected 32x40, for {tmp_path}/lq/largex2.jpg is 16x20" in text
    assert "small.png is 31x40" in text and "good.png" not in text
    assert "alone.png: no partner alonex2.*" in text and "otherx2.jpg: no ground truth" in text
    result = run("--weights", "bicubic", "--scale", "2", "--data", "mine=gt,lq", cwd=tmp_path)
    assert result.returncode == 1 and "data.mine: 8 of the images do not pair" in result.stderr
    assert "Traceback" not in result.stderr


BICUBIC = {
    "basicsr": {2: (33.68, 30.33), 3: (30.41, 27.63), 4: (28.43, 26.09)},
    # As nearly every paper's table has them, 30.24, 27.54 and 26.00: one photograph of Set14 (img_003) is a gray file.
    "matlab": {2: (33.68, 30.235), 3: (30.41, 27.54), 4: (28.43, 26.00)},
}
"""PSNR of Y on Set5 and Set14."""


@pytest.mark.skipif(not (SHARED / "data" / "benchmarks").is_dir(), reason="needs the benchmark images in ../shared")
@pytest.mark.parametrize(("protocol", "scale"), [*(("basicsr", scale) for scale in (2, 3, 4)), ("matlab", 2)])
def test_bicubic_has_the_published_numbers(tmp_path: Path, protocol: str, scale: int) -> None:
    roots = {name: SHARED / "data" / "benchmarks" / name / f"x{scale}" for name in ("Set5", "Set14")}
    data = [f"{name}={root}/HR,{root}/LR" for name, root in roots.items()]
    how = ("--scale", str(scale), "--protocol", protocol, "--no-images", "-o", "out")
    result = run("--weights", "bicubic", *how, "--data", *data, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    sets = json.loads((tmp_path / "out" / "results.json").read_text())["sets"]
    assert [s["rows"]["bicubic"]["mean"]["PSNR Y"] for s in sets] == pytest.approx(BICUBIC[protocol][scale], abs=0.01)


def test_names_of_images_need_not_be_text(tmp_path: Path) -> None:
    (tmp_path / "gt").mkdir()
    write_image(tmp_path / "gt" / os.fsdecode(b"caf\xe9.png"), np.full((32, 32, 3), 100, np.uint8))
    result = run("--weights", "bicubic", "--scale", "2", "--data", "odd=gt", "-o", "out", "--page", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    table = (tmp_path / "out" / "results.csv").read_text(encoding="utf-8")
    assert table.splitlines()[1].startswith("odd,2,bicubic,caf\\udce9,")


# --- restoring images ----------------------------------------------------------------------------------------------


def test_a_zoo_of_images(tmp_path: Path) -> None:
    """A folder of all kinds, with a network from keys and shapes; the broken are named, the others are restored."""
    old = network(
        {"type": "rrdbnet", "scale": 2, "num_feat": 4, "num_block": 1, "num_grow_ch": 4, "upsampling": "steps"}
    )
    style = {"body.0.rdb": "RRDB_trunk.0.RDB", "conv_body": "trunk_conv", "conv_hr": "HRconv", "conv_up": "upconv"}
    renamed = {}
    for key, value in old.state_dict().items():
        for new, published in style.items():
            key = key.replace(new, published)
        renamed[key] = value
    torch.save(renamed, tmp_path / "BSRGANx2.pth")
    zoo = tmp_path / "zoo"
    write_image(zoo / "colour.png", picture(0))
    write_image(zoo / "colour.jpg", picture(0))
    write_image(zoo / "sub" / "gray.png", picture(1)[..., 0])
    write_image(zoo / "sub" / "deeper" / "deep.tif", picture(2, dtype=np.uint16))
    write_image(zoo / "deep_gray.png", picture(2, dtype=np.uint16)[..., 0])
    write_image(zoo / "alpha.png", np.dstack([picture(3), picture(4)[..., 0]]))
    write_image(zoo / "dot.png", picture(5, 1, 1))
    write_image(zoo / "row.bmp", picture(5, 1, 9))
    (zoo / "cut.png").write_bytes((zoo / "colour.png").read_bytes()[:500])
    (zoo / "empty.jpg").touch()
    (zoo / "notes.txt").write_text("no image")
    result = run(
        "-i",
        zoo,
        "no_such.png",
        "-o",
        "out",
        "--weights",
        "BSRGANx2.pth",
        "--tile",
        "16",
        "--overlap",
        "8",
        cwd=tmp_path,
    )
    assert result.returncode == 1
    assert "8 of 11 images restored" in result.stdout and "3 failed" in result.stdout
    assert [name in result.stderr for name in ("cut.png", "empty.jpg", "no_such.png")] == [True] * 3
    assert result.stderr.count("error:") == 3 and "Traceback" not in result.stderr
    stored = {
        p.relative_to(tmp_path / "out").as_posix(): cv2.imread(str(p), cv2.IMREAD_UNCHANGED)
        for p in (tmp_path / "out").rglob("*.*")
    }
    found = {name: (array.shape, array.dtype.name) for name, array in stored.items()}
    assert found == {
        "colour_png.png": ((64, 80, 3), "uint8"),
        "colour_jpg.png": ((64, 80, 3), "uint8"),
        "sub/gray.png": ((64, 80), "uint8"),
        "sub/deeper/deep.png": ((64, 80, 3), "uint16"),
        "deep_gray.png": ((64, 80), "uint16"),
        "alpha.png": ((64, 80, 4), "uint8"),
        "dot.png": ((2, 2, 3), "uint8"),
        "row.png": ((2, 18, 3), "uint8"),
    }
    expected = Restorer(load_generator(tmp_path / "BSRGANx2.pth"))  # whole image
    difference = restore_array(expected, picture(0)).astype(int) - read_image(tmp_path / "out" / "colour_png.png")
    assert abs(difference).max() <= 1


def test_one_file_and_going_on(tmp_path: Path, checkpoint: Path) -> None:
    write_image(tmp_path / "in" / "a.png", picture(0))
    write_image(tmp_path / "in" / "b.png", picture(1))
    weights = ("--weights", checkpoint / "network_g_ema.safetensors")
    assert run("-i", "in/a.png", "-o", "larger.jpg", *weights, "--self-ensemble", cwd=tmp_path).returncode == 0
    assert read_image(tmp_path / "larger.jpg").shape == (64, 80, 3)
    with pytest.raises(OptionError, match="would replace an input"):
        restoration_targets([tmp_path / "in"], tmp_path / "in")
    write_image(tmp_path / "in" / "out" / "a_x2.png", picture(7))
    again = run("-i", "in", "-o", "in/out", *weights, "--suffix", "_x2", "--skip-existing", cwd=tmp_path)
    assert again.returncode == 0 and "1 of 2 images restored, in in/out; 1 were there already" in again.stdout
    np.testing.assert_array_equal(read_image(tmp_path / "in" / "out" / "a_x2.png"), picture(7))
    assert read_image(tmp_path / "in" / "out" / "b_x2.png").shape == (64, 80, 3)


def test_frames_keep_names_and_order(tmp_path: Path) -> None:
    """Numbered with or without leading zeros, in folders of shots: a result is of the frame that it is named as."""
    names = [f"one/frame_{i}" for i in (1, 2, 9, 10, 100)] + [f"two/{i:04d}" for i in (9, 10)]
    for i, name in enumerate(names):
        write_image(tmp_path / "frames" / f"{name}.png", np.full((8, 10, 3), 20 + 30 * i, np.uint8))
    done = run("-i", "frames", "-o", "out", "--weights", "bicubic", "--scale", "2", cwd=tmp_path)
    assert done.returncode == 0 and "7 of 7 images restored" in done.stdout, done.stderr
    made = {path.relative_to(tmp_path / "out").with_suffix("").as_posix(): path for path in tmp_path.glob("out/*/*")}
    assert sorted(made) == sorted(names)
    assert [int(read_image(made[name]).mean().round()) for name in names] == [20 + 30 * i for i in range(len(names))]


def test_how_to_restore_is_passed_on(tmp_path: Path, checkpoint: Path) -> None:
    write_image(tmp_path / "a.png", np.dstack([picture(0), picture(1)[..., 0]]))
    other = save_ours(tmp_path / "denoising.safetensors", SRVGG, seed=3)
    result = run(
        *("-i", "a.png", "-o", "out.png", "--weights", checkpoint, "--dni", other, "--dni-strength", "0.25"),
        *("--tile", "8", "--overlap", "9", "--tile-mode", "context", "--pre-pad", "50", "--outscale", "2.5"),
        *("--alpha", "network"),
        cwd=tmp_path,
    )
    assert result.returncode == 0 and "restoring x2.5" in result.stderr + result.stdout, result.stderr
    generator = interpolate(load_generator(checkpoint / "network_g_ema.safetensors"), other, 0.25)
    apply = Restorer(generator, tile=8, overlap=9, tile_mode="context", pre_pad=50)
    rgb, alpha, gray = read_image_alpha(tmp_path / "a.png")
    expected = restore_array(apply, rgb, alpha, gray, "network", outscale=2.5)
    found, opacity, _ = read_image_alpha(tmp_path / "out.png")
    assert opacity is not None and expected.shape == (80, 100, 4)
    np.testing.assert_array_equal(np.dstack([found, opacity]), expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--outscale", "0"), "--outscale: found 0"),
        (("--outscale", "inf"), "--outscale: found inf"),
        (("--pre-pad", "-1"), "--pre-pad: found -1"),
        (("--dni-strength", "1.5"), "--dni-strength: found 1.5"),
        (("--tile", "8", "--overlap", "8"), "--overlap 8 does not fit --tile 8"),
    ],
)
def test_a_wrong_number(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    result = run("-i", "photo.png", "-o", "out", "--weights", "x.pth", *arguments, cwd=tmp_path)
    assert result.returncode == 2 and words in result.stderr


def test_a_wrong_call(tmp_path: Path) -> None:
    result = run("-i", "photo.png", "--weights", "x.pth", cwd=tmp_path)
    assert result.returncode == 2 and "-o" in result.stderr
    torch.save({"conv.weight": torch.zeros(3)}, tmp_path / "x.pth")
    result = run("-i", "photo.png", "-o", "out", "--weights", "x.pth", cwd=tmp_path)
    assert result.returncode == 1 and "x.pth" in result.stderr and "Traceback" not in result.stderr


# --- parts ---------------------------------------------------------------------------------------------------------


def test_network_comes_from_metadata_and_from_shapes(tmp_path: Path) -> None:
    ours = load_generator(save_ours(tmp_path / "network_g_ema.safetensors", {**SRVGG, "act_type": "leakyrelu"}))
    assert ours.options["act_type"] == "leakyrelu" and ours.network.scale == 2
    state = network({"type": "srvgg", "scale": 4, "num_feat": 8, "num_conv": 2}).state_dict()
    other = {key: value + 1 for key, value in state.items()}
    torch.save({"params_ema": state, "params": other}, tmp_path / "general.pth")
    for prefer, weights in (("ema", state), ("raw", other)):
        found = load_generator(tmp_path / "general.pth", prefer)
        assert found.options["num_conv"] == 2 and found.network.scale == 4
        assert all(torch.equal(value, weights[key]) for key, value in found.network.state_dict().items())
    relu = {"type": "srvgg", "scale": 2, "num_feat": 8, "num_conv": 1, "act_type": "relu"}
    torch.save(network(relu).state_dict(), tmp_path / "relu.pth")
    with pytest.raises(OptionError, match=r"relu\.pth: .*--opt FILE"):
        load_generator(tmp_path / "relu.pth")
    assert load_generator(tmp_path / "relu.pth", otherwise=relu).options == relu
    discriminator = {"type": "unet_sn", "num_feat": 4}
    with pytest.raises(OptionError, match="holds a discriminator"):
        load_generator(save_ours(tmp_path / "d.safetensors", discriminator))


def test_names_of_checkpoints() -> None:
    ours = [
        Path(f"/r/{run}/checkpoints/{stage}/{file}")
        for run in "ab"
        for stage in ("psnr_1", "gan_2")
        for file in ("network_g.safetensors",)
    ]
    assert checkpoint_names([*ours[:2], Path("/w/BSRGAN.pth")]) == ["psnr_1/raw", "gan_2/raw", "BSRGAN"]
    assert checkpoint_names(ours)[0] == "a/checkpoints/psnr_1/raw"
    assert checkpoint_names([Path("/x/net.pth"), Path("/y/net.pth"), Path("/z/other.pth")]) == [
        "x/net",
        "y/net",
        "other",
    ]
    with pytest.raises(OptionError, match="twice"):
        checkpoint_names([Path("/x/net.pth"), Path("/x/net.pth")])


def test_names_of_images() -> None:
    assert image_names(["d/a.png", "d/e/b.png"]) == ["a", "b"]
    assert image_names(["d/1/a.png", "d/2/a.png", "d/2/b.png"]) == ["1/a", "2/a", "2/b"]
    assert image_names(["d/a.png", "d/a.jpg"]) == ["a.png", "a.jpg"]


def test_targets_of_restoration(tmp_path: Path) -> None:
    for name in ("one/a.png", "two/a.png"):
        write_image(tmp_path / name, picture(0, 4, 4))
    with pytest.raises(OptionError, match="would be the result of"):
        restoration_targets([tmp_path / "one", tmp_path / "two"], tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.png").symlink_to(tmp_path / "one" / "a.png")
    with pytest.raises(OptionError, match="would replace an input"):
        restoration_targets([tmp_path / "one" / "a.png"], tmp_path / "out")
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match=r"-o .*file: is a file; give a folder"):
        restoration_targets([tmp_path / "one"], tmp_path / "file")


def test_a_link_to_itself_is_an_input_that_fails(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png", picture(0, 4, 4))
    (tmp_path / "in" / "b.png").symlink_to("b.png")
    targets = restoration_targets([tmp_path / "in"], tmp_path / "out")
    done = list(restore_files(targets, Restorer(bicubic_generator(1)), Console()))
    assert [path.name for path in targets] == ["a.png", "b.png"] and done == [True, False]


def test_a_folder_that_cannot_be_listed_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("open/a.png", "closed/b.png"):
        write_image(tmp_path / name, picture(0, 4, 4))
    listed = os.scandir

    def scandir(path: str | Path) -> Any:  # noqa: ANN401 - root may list everything
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    folders, out = [tmp_path / "open", tmp_path / "closed"], tmp_path / "out"
    targets = restoration_targets(folders, out, console=Console())
    done = list(restore_files(targets, Restorer(bicubic_generator(1)), Console()))
    assert done == [True, False] and (out / "a.png").is_file()
    assert f"{folders[1]}: this folder cannot be listed (Permission denied)" in capsys.readouterr().err
    with pytest.raises(OSError, match="cannot be listed"):
        restoration_targets(folders[1:], out, console=Console())


@pytest.mark.parametrize("alpha_by", ["resize", "network"])
def test_alpha_and_depth(alpha_by: Any, tmp_path: Path) -> None:  # noqa: ANN401
    bicubic = Restorer(load_generator(save_ours(tmp_path / "g.safetensors", SRVGG)), self_ensemble=True)
    image = picture(0, 5, 7, np.uint16)
    alpha = np.full((5, 7), 65535, np.uint16)
    result = restore_array(bicubic, image, alpha, gray=True, alpha_by=alpha_by)
    assert result.shape == (10, 14, 2) and result.dtype == np.uint16
    if alpha_by == "resize":
        assert (result[..., 1] == 65535).all()
    write_image(tmp_path / "la.png", result)
    found, opacity, gray = read_image_alpha(tmp_path / "la.png")
    assert gray
    np.testing.assert_array_equal(np.dstack([found[..., 0], opacity]), result)


def test_network_of_one_channel(tmp_path: Path) -> None:
    gray = {**SRVGG, "num_in_ch": 1, "num_out_ch": 1}
    restorer = Restorer(load_generator(save_ours(tmp_path / "g.safetensors", gray)), tile=8, overlap=4)
    lq = torch.rand(1, 3, 9, 11)
    sr = restorer(lq)
    assert sr.shape == (1, 3, 18, 22)
    assert torch.allclose(sr[:, 1:2], restorer(lq[:, 1:2].expand(-1, 3, -1, -1))[:, :1], atol=1e-6)


def test_self_ensemble_turns_everything_back() -> None:
    lq = torch.rand(1, 3, 5, 7)
    assert torch.allclose(ensemble(lambda image: image, lq), lq)
    shift = ensemble(lambda image: image.roll(1, -1), lq)
    neighbours = sum(lq.roll(step, axis) for step in (-1, 1) for axis in (-1, -2)) / 4
    assert torch.allclose(shift, neighbours, atol=1e-6)  # a network that prefers one direction prefers none any more


@pytest.mark.parametrize("precision, tolerance", [("bf16", 0.05), ("fp16", 0.01)])
def test_half_precision(precision: Any, tolerance: float, tmp_path: Path) -> None:  # noqa: ANN401
    generator = load_generator(save_ours(tmp_path / "g.safetensors", SRVGG))
    lq = torch.rand(1, 3, 8, 8)
    whole, half = Restorer(generator)(lq), Restorer(generator, precision=precision)(lq)
    assert half.dtype == torch.float32 and 0 < float((whole - half).abs().max()) < tolerance
