"""`python -m models.training.report`: what run folders tell, and the page in headless Chromium."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.training.report.__main__ import TEMPLATE
from models.training.report.page import page_data
from models.training.report.runs import POINTS, higher_is_better, read_runs, thinned
from tests import programs
from tests.helpers import ROOT
from tests.run.test_ablation_page import opened
from tests.run.tiny import write_options
from utils.pages import write_page


def run_folder(folder: Path, rate: float, state: str = "finished", **more: Any) -> Path:  # noqa: ANN401
    """A run of two stages, as train.py leaves it."""
    stages = {"psnr": {"type": "psnr", "iterations": 40, "optim_g": {"lr": rate}}, "gan": {"iterations": 20}}
    write_options(folder / "options.yml", {"name": folder.name, "seed": 3, "stages": {**stages, "old": None}, **more})
    lines = []
    for stage, end in (("psnr", 40), ("gan", 20)):
        for i in range(0, end + 1, 10):
            lines.append({"stage": stage, "iteration": i, "time": i, "hr/PSNR": 20 + i * rate, "hr/LPIPS": 1 - i / 100})
            lines.append({"stage": stage, "iteration": i, "time": i, "l1": 1 / (1 + i), "lr": rate, "speed": 2.0})
    lines[3]["l1"] = None  # was not finite
    text = "".join(f"{json.dumps(line)}\n" for line in lines) + '{"stage": "gan", "iter'
    (folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    (folder / "status.json").write_text(json.dumps({"state": state, "reason": "disk" if state == "failed" else ""}))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    runs = tmp_path_factory.mktemp("runs")
    return [run_folder(runs / "slow", 1e-3), run_folder(runs / "fast", 1e-2, "failed", seed=4)]


@pytest.fixture(scope="module")
def page(folders: list[Path]) -> Iterator[Any]:
    path = folders[0].parent / "compared.html"
    write_page(TEMPLATE, path, "Runs compared", page_data(read_runs(folders)))
    yield from opened(path)


def test_iterations_count_on_and_numbers_have_their_subject(folders: list[Path]) -> None:
    data = page_data(read_runs(folders))
    assert list(data["subjects"]) == ["Validation", "Losses", "Learning rate", "Speed and memory"]
    assert data["subjects"]["Losses"]["l1"]["slow"]["x"] == [0, 20, 30, 40, 50, 60]  # 10 was not finite
    slow = data["runs"]["slow"]
    assert (slow["done"], slow["total"], slow["stages"]) == (60, 60, "psnr 40 → gan 20")
    assert slow["scores"]["hr/PSNR"]["last"] == pytest.approx(20.02)
    assert slow["scores"]["hr/PSNR"]["bestAt"] == 40 and slow["scores"]["hr/LPIPS"]["best"] == pytest.approx(0.6)
    assert data["options"] == {"seed": ["3", "4"], "stages.psnr.optim_g.lr": ["0.001", "0.01"]}


def test_a_long_curve_is_thinned_to_means() -> None:
    x, y = thinned({i: float(i % 2) for i in range(10 * POINTS)})
    assert len(x) == len(y) == POINTS and set(y) == {0.5} and x[-1] == 10 * POINTS - 1


def test_the_direction_of_a_number_is_its_metrics() -> None:
    options = {"logger": {"metrics": {"mine": {"type": "lpips"}, "deep": {"type": "pyiqa", "name": "musiq"}}}}
    assert higher_is_better("Set5/SSIM Y", options) is True and higher_is_better("Set5/MINE", options) is False
    assert higher_is_better("Set5/DEEP", options) is None


def test_the_page_shows_sorts_and_hides(page: Any) -> None:  # noqa: ANN401
    page.locator("#runs th[data-key=best]").click()
    assert page.locator("#runs tbody tr").first.inner_text().startswith("fast")
    assert "failed: disk" in page.locator("#runs").inner_text() and "60 of 60" in page.locator("#runs").inner_text()
    assert page.locator(".plot svg").count() == 4 and page.locator(".plot polyline").count() == 8
    page.locator("#legend button").first.click()
    assert page.locator(".plot polyline").count() == 4
    page.locator("#legend button").first.click()
    page.locator("#smoothing").fill("0.9")
    assert page.locator(".plot polyline").count() == 12  # the raw lines of losses and speed
    page.locator("[data-subject=Validation] select").select_option("hr/LPIPS")
    assert page.locator("svg[aria-label='hr/LPIPS']").count() == 1
    assert "stages.psnr.optim_g.lr" in page.locator("#options").inner_text()


def test_the_command_names_the_page_and_what_it_leaves_out(folders: list[Path], tmp_path: Path) -> None:
    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        return programs.call("models.training.report.__main__", *map(str, arguments), cwd=ROOT)

    done = call(*folders, tmp_path, "--out", tmp_path / "new" / "page.html")
    assert done.returncode == 0 and f"left out, since train.py wrote no log there: {tmp_path}" in done.stderr
    assert (tmp_path / "new" / "page.html").is_file()
    done = call(tmp_path)
    assert done.returncode == 1 and "found no run" in done.stderr
