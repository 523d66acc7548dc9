"""Fine-tuning of released weights: it begins where test.py stands."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from models.weights.zoo import zoo_folder
from tests.helpers import ROOT
from utils.images.files import write_image

RECIPE = ROOT / "options" / "realesrgan" / "finetune_x4plus.yml"


def call(*arguments: str | Path, cwd: Path) -> None:
    done = subprocess.run(
        [sys.executable, *map(str, arguments), "--device", "cpu"], cwd=cwd, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.skipif(zoo_folder() is None, reason="needs the extra `zoo`")
def test_validation_at_iteration_0_is_the_number_of_test_py(tmp_path: Path) -> None:
    data = pytest.importorskip("skimage.data", reason="needs photographs of scikit-image")
    for name, photo in (("astronaut", data.astronaut()), ("cat", data.chelsea())):
        write_image(tmp_path / "photos" / f"{name}.png", photo[:160, 100:308].copy())
    weights = "zoo:realesr-animevideov3-x4"
    sets = (
        *("name=tuned", f"stages.gan.init_from.checkpoint={weights}", "stages.gan.iterations=1", "data.workers=0"),
        *("network_g={type: srvgg, num_feat: 64, num_conv: 16}", "stages.gan.losses.perceptual=null"),
        *("data.train.hr.root=photos", "data.validation.hr={type: folder, root: photos}", "data.crop_size=128"),
        *("data.gt_size=64", "data.batch_size=1", "stages.gan.network_d.num_feat=4", "degradation.where=worker"),
    )
    options = ["--opt", RECIPE, *(word for text in sets for word in ("--set", text))]
    call(ROOT / "train.py", *options, cwd=tmp_path)
    call(ROOT / "test.py", *options, "--weights", f"zoo={weights}", "-o", "out", cwd=tmp_path)
    first = json.loads((tmp_path / "runs" / "tuned" / "metrics.jsonl").read_text().splitlines()[0])
    (measured,) = json.loads((tmp_path / "out" / "results.json").read_text())["sets"]
    expected = measured["rows"]["zoo"]["mean"]
    assert first["iteration"] == 0
    for name in ("PSNR", "SSIM"):
        assert first[f"hr/{name}"] == pytest.approx(expected[f"{name} RGB"], abs=1e-9)
