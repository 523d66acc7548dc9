"""The wheel: everything under one name, beside a project that has packages of the same names."""

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest

from tests.helpers import ROOT
from utils.wheel.blind_sr_build import build_sdist, rewritten, sources


def test_imports_are_rewritten_and_nothing_else() -> None:
    code = "from data import X\nfrom models.network import (\n    A,\n)\nimport dataclasses\nfrom database import b\n"
    text = (
        'def f() -> None:\n    """Run `python -m data.prepare`."""\n'
        '    from utils.options import files  # from data\n    x = "data.train"\n'
    )
    expected = code.replace("from data ", "from blind_sr.data ").replace("from models", "from blind_sr.models")
    assert rewritten(code) == expected
    changed = text.replace("-m data", "-m blind_sr.data").replace("    from utils", "    from blind_sr.utils")
    assert rewritten(text) == changed
    with pytest.raises(ValueError, match="x.py:1: import models.network; use from … import …"):
        rewritten("import models.network as m", "x.py")


def test_every_file_can_be_rewritten() -> None:
    left = re.compile(r"^\s*(from|import) (data|degradations|losses|models|utils)\b", re.MULTILINE)
    files = [path for path in sources(ROOT) if path.suffix == ".py"]
    assert len(files) > 100 and not [path for path in files if left.search(rewritten(path.read_text("utf-8")))]


MAIN = """
import sys
import numpy as np
import torch
from torch.utils.data import DataLoader
from blind_sr.degradations import load_degradation
from blind_sr.degradations.anywhere import DegradedDataset, degrade_batch
from data.photos import Photos
from models.net import Net
from utils import name_of

if __name__ == "__main__":
    pairs = DegradedDataset(Photos(), load_degradation("bsrgan", scale=2), crop_size=32, gt_size=16)
    net = Net()
    optimizer = torch.optim.Adam(net.parameters())
    workers = {"num_workers": 2, "multiprocessing_context": sys.argv[1], "persistent_workers": True}
    loader = DataLoader(pairs, batch_size=2, **workers)
    sums = []
    for epoch in range(2):
        pairs.set_epoch(epoch)
        for pair in loader:
            loss = (net(pair["lq"]) - pair["gt"]).abs().mean()
            loss.backward()
            optimizer.step()
        sums.append(float(pair["lq"].sum()))
    made = degrade_batch(torch.rand(2, 3, 32, 32), pairs.degradation, step=1)
    assert made.lq.shape == (2, 3, 16, 16)
    print(name_of(net), *(f"{s:.6f}" for s in sums))
"""


@pytest.mark.slow
def test_a_wheel_serves_a_project_with_packages_of_the_same_names(tmp_path: Path) -> None:
    def run(*command: object, cwd: Path = ROOT) -> str:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = subprocess.run(
            list(map(str, command)), cwd=cwd, capture_output=True, text=True, env=environment, timeout=600, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    run(*pip, ROOT, "-w", tmp_path / "wheels")
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    run(sys.executable, "-m", "venv", "--system-site-packages", tmp_path / "venv")
    (site,) = (tmp_path / "venv").glob("lib/*/site-packages")
    # What this interpreter has installed, which for a virtual environment the system's packages are not.
    (site / "these.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    bin_folder = tmp_path / "venv" / "bin"
    run(bin_folder / "python", "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel)

    project = tmp_path / "project"
    for name, text in {
        "utils/__init__.py": "def name_of(net):\n    return type(net).__name__\n",
        "data/__init__.py": "",
        "data/photos.py": (
            "import numpy as np\n\n\nclass Photos:\n    def __len__(self):\n        return 4\n\n"
            "    def __getitem__(self, i):\n"
            "        return np.random.default_rng(i).integers(0, 256, (40, 48, 3), dtype=np.uint8)\n"
        ),
        "models/__init__.py": "",
        "models/net.py": (
            "from torch import nn\n\n\nclass Net(nn.Sequential):\n    def __init__(self):\n"
            "        super().__init__(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))\n"
        ),
        "main.py": MAIN,
    }.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    results = {start: run(bin_folder / "python", "main.py", start, cwd=project) for start in ("fork", "spawn")}
    assert results["fork"] == results["spawn"], "workers see the epoch, however they are started"
    name, first, second = results["fork"].split()
    assert name == "Net" and first != second, "another epoch draws anew"
    for script in ("blind-sr-train", "blind-sr-test"):
        assert "usage" in run(bin_folder / script, "--help", cwd=tmp_path)


@pytest.mark.slow
def test_a_source_archive_holds_what_a_wheel_is_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "copy"
    for path in (*sources(ROOT), ROOT / "pyproject.toml", ROOT / "README.md", ROOT / "LICENSE"):
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    monkeypatch.chdir(copy)
    name = build_sdist(str(tmp_path))
    with tarfile.open(tmp_path / name) as archive:
        held = {entry.partition("/")[2] for entry in archive.getnames()}
    assert {"train.py", "pyproject.toml", "PKG-INFO", "models/network.py", "options/quickstart.yml"} <= held
