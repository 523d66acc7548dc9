"""`python -m degradations.preview` as a process, and its samples against those that training gets."""

import json
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from data.pairs import named_files, plan_of, read_plans
from data.training import Mix, TrainingSet, degrade
from degradations.drawn import drawn_picture, drawn_table, drawn_text
from models.training.experiment import Experiment, load_experiment
from models.training.preview import image_samples, replay, strips, training_samples
from tests.helpers import ROOT
from tests.programs import call
from utils.images.files import from_tensor, read_image, to_uint8, write_image
from utils.images.plot import figure, histogram
from utils.logging import Console
from utils.options.fields import OptionError

OPTIONS = """
name: tiny
scale: 2
network_g: {{type: srvgg, num_feat: 4, num_conv: 1}}
degradation: {degradation}
data:
  train: {{own: {{type: folder, root: {root}}}}}
  crop_size: 32
  gt_size: 24
  batch_size: 4
stages:
  psnr: {{type: psnr, iterations: 1, losses: {{l1: {{type: l1}}}}}}
  second: {{type: psnr, iterations: 1, losses: {{l1: {{type: l1}}}}}}
"""


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Smooth colour ramps with noise; the last has 16 bits."""
    rng = np.random.default_rng(0)
    for i, name in enumerate(("a", "sub/b", "c")):
        ramp = np.mgrid[0:41, 0:53].sum(0)[..., None] * (2 + i)
        noisy = (ramp + rng.integers(0, 30, (41, 53, 3))).clip(0, 255)
        write_image(
            tmp_path / "images" / f"{name}.png",
            noisy.astype(np.uint16) * 251 if name == "c" else noisy.astype(np.uint8),
        )
    return tmp_path / "images"


@pytest.fixture
def option_file(tmp_path: Path, images: Path) -> Path:
    path = tmp_path / "tiny.yml"
    path.write_text(OPTIONS.format(root=images, degradation="bsrgan"), encoding="utf-8")
    return path


@pytest.fixture
def experiment(option_file: Path) -> Experiment:
    return load_experiment(option_file)[0]


def preview(*arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Runs the entry point in the repository root."""
    done = call("models.training.preview", *map(str, arguments), cwd=ROOT, timeout=120)
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_sheet_is_written(option_file: Path, tmp_path: Path) -> None:
    done = preview("--opt", option_file, "--sample", 4711, 3, "--out", tmp_path / "out" / "sheet.png")
    sheet = read_image(tmp_path / "out" / "sheet.png")
    assert sheet.shape[0] > 2 * 224 and sheet.shape[1] > 5 * 224
    assert str(tmp_path / "out" / "sheet.png") in done.stdout and "--histogram" in done.stdout


@pytest.mark.parametrize("stage", ["psnr", "second"])
def test_samples_are_those_of_training(experiment: Experiment, stage: str) -> None:
    default = experiment.degradation.component(scale=2)
    mix = Mix.build(experiment.data.train, default, 2)
    training = TrainingSet(mix, experiment.data, seed=0, stage=stage, batch_size=4, in_worker=True)
    numbers = [4711, 0, 5]
    batch = degrade(training.__getitems__(numbers), [default], torch.device("cpu"))
    for i, shown in enumerate(training_samples(experiment, stage, numbers)):
        assert shown.plan == batch.plans[i]
        assert torch.equal(shown.batch.lq[0], batch.lq[i])
        assert torch.equal(shown.batch.targets["plain"][0], batch.targets["plain"][i])


def test_last_step_gives_the_low_quality_image(experiment: Experiment) -> None:
    for shown in training_samples(experiment, "psnr", range(6)):
        captions, after = zip(*shown.after_steps(), strict=True)
        assert shown.plan.crop is not None
        top, left, size = shown.plan.crop
        assert torch.equal(after[-1][:, top : top + size, left : left + size], shown.batch.lq[0])
        assert [caption.split()[1] for caption in captions] == [name for name, _ in shown.plan.steps]


def test_given_images_are_all_degraded_alike(experiment: Experiment, images: Path) -> None:
    files, names = named_files([str(images)], 2)
    assert names == ["a", "c", "sub/b"]
    crops = list(image_samples(experiment, "psnr", files, 2))
    assert [shown.gt.shape for shown in crops] == [(3, 32, 32)] * 6
    assert crops[0].plan == crops[2].plan != crops[1].plan
    whole = list(image_samples(experiment, "psnr", files, 1, whole=True))
    assert [shown.gt.shape for shown in whole] == [(3, 40, 52)] * 3
    assert whole[0].batch.lq.shape == (1, 3, 20, 26)


def test_apply_writes_pairs_that_replay_equal(option_file: Path, images: Path, tmp_path: Path) -> None:
    (images / "broken.png").write_bytes(b"no image")
    pairs = tmp_path / "pairs"
    done = preview("--opt", option_file, images, "--apply", pairs, status=1)
    assert "broken.png" in done.stderr and "3 pairs written" in done.stdout
    lines = read_plans(pairs / "plans.jsonl")
    assert [line["name"] for line in lines] == ["a", "c", "sub/b"]
    assert read_image(pairs / "gt" / "c.png").dtype == np.uint16

    experiment = load_experiment(option_file)[0]
    for line, shown in zip(lines, replay(experiment, pairs / "plans.jsonl", 9, Console()), strict=True):
        source = read_image(images / f"{line['name']}.png")[:40, :52]
        assert np.array_equal(read_image(pairs / "gt" / f"{line['name']}.png"), source)
        assert np.array_equal(
            read_image(pairs / "lq" / f"{line['name']}.png"), to_uint8(from_tensor(shown.batch.lq[0]))
        )


def test_apply_leaves_out_what_the_degradation_refuses(option_file: Path, images: Path, tmp_path: Path) -> None:
    """As a file that cannot be read: it is named, and the others are written."""
    both = images.parent / "both"
    write_image(both / "thin.png", np.zeros((8, 300, 3), np.uint8))
    write_image(both / "wide.png", np.zeros((256, 256, 3), np.uint8))
    realesrgan = ("degradation.type=realesrgan", "data.crop_size=256", "data.gt_size=128")
    sets = (word for option in realesrgan for word in ("--set", option))
    done = preview("--opt", option_file, both, "--apply", tmp_path / "pairs", *sets, status=1)
    assert "thin.png: a blur with kernels" in done.stderr and "1 images unusable" in done.stdout
    assert [line["name"] for line in read_plans(tmp_path / "pairs" / "plans.jsonl")] == ["wide"]


def test_apply_goes_on_where_it_stopped(option_file: Path, images: Path, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs"
    preview("--opt", option_file, images, "--apply", pairs)
    listing = pairs / "plans.jsonl"
    before, first = listing.read_text(encoding="utf-8"), read_image(pairs / "lq" / "a.png")
    lines = before.splitlines()
    listing.write_text(lines[0] + "\n" + lines[1][:40], encoding="utf-8")  # killed while it wrote
    write_image(pairs / "lq" / "a.png", 255 - first)  # would be mended if it were made again
    done = preview("--opt", option_file, images, "--apply", pairs)
    assert "2 pairs written, 1 were there" in done.stdout
    assert listing.read_text(encoding="utf-8") == before
    assert np.array_equal(read_image(pairs / "lq" / "a.png"), 255 - first)
    done = preview("--opt", option_file, images, "--apply", pairs, "--seed", 1, status=1)
    assert "another degradation or seed" in done.stderr


def test_replay_of_a_step_without_finite_gradient(experiment: Experiment, tmp_path: Path) -> None:
    samples = list(training_samples(experiment, "second", range(8, 12)))  # iteration 3 of batches of 4
    file = tmp_path / "nonfinite_second_3_rank0.jsonl"
    lines = [json.dumps({"path": s.batch.paths[0], "plan": json.loads(s.plan.to_json())}) for s in samples[1:3]]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = list(replay(experiment, file, 4, Console()))
    assert [s.plan for s in found] == [s.plan for s in samples[1:3]]
    assert all(torch.equal(a.batch.lq, b.batch.lq) for a, b in zip(found, samples[1:3], strict=True))
    other = file.rename(tmp_path / "nonfinite_second_2_rank0.jsonl")
    with pytest.raises(OptionError, match="2 of its first 2 plans are not drawn in iteration 2"):
        list(replay(experiment, other, 4, Console()))


def stands_in(picture: np.ndarray, part: np.ndarray) -> bool:
    """Whether a picture holds another, pixel for pixel."""
    difference = cv2.matchTemplate(picture, part, cv2.TM_SQDIFF)
    top, left = np.unravel_index(difference.argmin(), difference.shape)
    return np.array_equal(picture[top : top + part.shape[0], left : left + part.shape[1]], part)


def test_kernel_stands_beside_the_image(images: Path, tmp_path: Path) -> None:
    """The kernel that the network is told, enlarged; of training samples at any scale, and of whole images."""
    file = tmp_path / "classical.yml"
    text = OPTIONS.format(root=images, degradation="{type: classical, scales: [1, 2, 8]}")
    file.write_text(text.replace("srvgg, num_feat: 4, num_conv: 1", "usrnet"), encoding="utf-8")
    experiment = load_experiment(file)[0]
    shown = list(training_samples(experiment, "psnr", range(0, 48, 4)))
    assert {sample.plan.scale for sample in shown} == {1, 2, 8}
    whole = list(image_samples(experiment, "psnr", named_files([str(images / "a.png")], 2)[0], 40, whole=True))
    assert {sample.plan.scale for sample in whole} == {1, 2, 8}
    for sample in shown + whole[::4]:
        assert sample.batch.kernel is not None and sample.batch.kernel.shape == (1, 25, 25)
        kernel = sample.batch.kernel[0] / sample.batch.kernel.max()
        cell = to_uint8(from_tensor(kernel.expand(3, -1, -1)))
        rows = strips(sample, {})
        factors = range(4, rows[-1].shape[0] // 25 + 1)
        assert any(stands_in(rows[-1], cell.repeat(factor, 0).repeat(factor, 1)) for factor in factors)
    done = preview("--opt", file, "--out", tmp_path / "sheet.png")
    assert str(tmp_path / "sheet.png") in done.stdout


def test_histogram(option_file: Path, tmp_path: Path) -> None:
    done = preview("--opt", option_file, "--histogram", tmp_path / "plot.png", "--count", 200)
    assert read_image(tmp_path / "plot.png").shape[0] > 1000
    row = next(line for line in done.stdout.splitlines() if line.startswith("| final_jpeg"))
    assert row.split("|")[3].strip() == "1.000"
    assert "python train.py --opt" in done.stdout


def test_what_is_drawn_is_counted() -> None:
    samples = [
        [("a", {"x": 1.0, "seed": 5}), ("b", {"kind": "u"})],
        [("b", {"kind": "v"}), ("a", {"x": 3.0})],
        [("b", {})],
    ]
    _, rows = drawn_table(samples)
    assert rows == [
        ["b", "", "1.000", *[""] * 5],
        ["", "kind u", "0.333", *[""] * 5],
        ["", "kind v", "0.333", *[""] * 5],
        ["a", "", "0.667", *[""] * 5],
        ["", "x", "0.667", "1", "1.1", "2", "2.9", "3"],
    ]
    assert drawn_picture(samples).shape[2] == 3
    assert drawn_text({"size": [3, 4], "x": 0.12345, "m": [[1.0, 2.0]], "seed": 3}) == "size 3x4, x 0.123, m 1x2"


@pytest.mark.parametrize("values", [[2], [2.5, 2.5], [1, 2, 3], list(range(66)), [0.1, 0.2, 0.9], [-5, 1e6]])
def test_every_value_is_in_the_histogram(values: list[float]) -> None:
    with figure(3, 2) as drawn:
        axes = drawn.add_subplot()
        histogram(axes, "x", values)
    low, high = axes.get_xlim()
    shown = [bar for bar in axes.patches if low <= bar.get_x() and bar.get_x() + bar.get_width() <= high]
    assert sum(bar.get_height() for bar in shown) == len(values)


def test_errors_are_one_clear_message(option_file: Path, images: Path, tmp_path: Path) -> None:
    assert "the file has the stages psnr, second" in preview("--opt", option_file, "--stage", "gan", status=1).stderr
    done = preview("--opt", option_file, images / "missing.png", status=1)
    assert done.stderr.startswith("error: ") and "there is no such file" in done.stderr
    done = preview("--opt", option_file, images, "--out", tmp_path / "sheet.gif", status=1)
    assert "cannot write the format" in done.stderr


def test_wrong_inputs_are_refused(experiment: Experiment, option_file: Path, images: Path, tmp_path: Path) -> None:
    write_image(images / "twice" / "a.png", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(OptionError, match="would both be called a"):
        named_files([str(images), str(images / "twice")], 2)
    paired = load_experiment(option_file, ["degradation=none"])[0]
    with pytest.raises(OptionError, match="starts from given low-quality images"):
        list(image_samples(paired, "psnr", named_files([str(images)], 2)[0], 1))
    write_image(tmp_path / "gt" / "x.png", np.zeros((8, 8, 3), np.uint8))
    file = tmp_path / "plans.jsonl"
    file.write_text('{"name": "x", "plan": {"size": [8, 8], "scale": 2, "steps": [["warp", {}]], "crop": null}}\n')
    assert plan_of(read_plans(file)[0]).size == (8, 8)
    with pytest.raises(OptionError, match="the plan of x is none of `bsrgan`: .*'warp'"):
        list(replay(experiment, file, 1, Console()))
    file.write_text('{"name": "x"}\n')
    with pytest.raises(OptionError, match="line 1: expected"):
        list(replay(experiment, file, 1, Console()))
