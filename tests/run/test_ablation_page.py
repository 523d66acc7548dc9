"""The page in headless Chromium, opened from disk and clicked."""

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data.source import SourceEntry
from data.sources.folder import Folder
from data.validation import ValidationSet
from degradations import DEGRADATIONS
from models.ablating.page import write_page
from models.ablating.paper import latex, markdown, write_figures
from models.ablating.report import Curve, Report, Scores
from models.benchmarking.benchmark import BenchmarkSet
from tests.run.test_test_py import SRVGG, run, save_ours
from tests.run.tiny import pictures
from utils.seeding import generator

CHROMIUM = shutil.which("chromium")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
ROWS = ["full", "no_<jpeg>", "same"]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Three variants: the baseline, a worse one, and one that differs by chance."""
    folder = tmp_path_factory.mktemp("page")
    source = Folder(str(pictures(folder / "gt", count=14, height=32, width=40)))
    degradation = DEGRADATIONS.build("bicubic", scale=2)
    valid = ValidationSet("Set5", SourceEntry(source), degradation, seed=0, scale=2)
    images, rng = [str(i) for i in range(14)], generator("page")
    base = rng.normal(28, 2, (1, 14)) + rng.normal(0, 0.02, (3, 14))
    values = {row: base - 0.5 * (row == ROWS[1]) + rng.normal(0, 0.02, (3, 14)) for row in ROWS}
    for row in ROWS:
        shutil.copytree(folder / "gt", folder / row)
    curve = Curve(dict.fromkeys(ROWS, [0, 10, 20]), {row: rng.normal(20, 1, (3, 3)).cumsum(axis=1) for row in ROWS})
    steps: dict[str, Any] = {row: [[("blur", {"width": float(w)})] for w in rng.uniform(0, 2, 50)] for row in ROWS}
    return Report(
        name="an </script> ablation",
        baseline="full",
        rows=ROWS,
        scores=[Scores("Set5", n, images, dict.fromkeys(ROWS, [0, 1, 2]), values) for n in ("PSNR RGB", "SSIM RGB")],
        sets=[BenchmarkSet(valid, "made by `bicubic`", False, images)],
        protocol="basicsr",
        judge_by="PSNR RGB",
        changes={ROWS[1]: [("degradation.steps.jpeg", "default", "removed")]},
        pictures={row: {"Set5": folder / row} for row in ROWS},
        curves={"Set5/PSNR": curve},
        drawn=steps,
        states={"same": "3 of 4 seeds"},
    )


def opened(path: Path) -> Iterator[Any]:
    """Yield a page in headless Chromium; at the end, no error has been and nothing was asked of a network."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    sync = pytest.importorskip("playwright.sync_api")
    with sync.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        page, errors, asked = browser.new_page(viewport={"width": 1300, "height": 900}), [], []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        yield page
        assert errors == [] and [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        browser.close()


@pytest.fixture(scope="module")
def page(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    path = tmp_path_factory.mktemp("html") / "report.html"
    write_page(report, path)
    yield from opened(path)


def column(page: Any, place: int) -> list[str]:  # noqa: ANN401
    return page.locator(f"#scores tbody td:nth-child({place})").all_inner_texts()


def test_the_table_sorts_by_any_number(page: Any) -> None:  # noqa: ANN401
    head = page.locator("#scores th[data-key=mean]")
    head.click()
    falling = [float(text) for text in column(page, 3)]
    head.click()
    assert [float(text) for text in column(page, 3)] == sorted(falling) == falling[::-1]
    page.locator("#scores th[data-key=difference]").click()
    assert column(page, 5)[0].startswith(("+", "\u2212"))


def test_only_what_is_more_than_chance_is_bold(page: Any) -> None:  # noqa: ANN401
    assert page.locator("#scores .seen").count() == 1
    assert "worse by 0.5" in page.locator("#verdicts").inner_text()
    assert "no difference can be seen" in page.locator("#verdicts").inner_text()
    assert "same: 3 of 4 seeds" in page.locator("#remarks").inner_text()


def test_one_zoom_moves_all_variants_and_the_slider_divides(page: Any) -> None:  # noqa: ANN401
    def places() -> list[str]:
        return page.eval_on_selector_all("#tiles img", "images => images.map(image => image.style.transform)")

    page.locator("#scores tbody tr", has_text="same").click()
    assert page.locator("#tiles figure").count() == 5  # low quality, three rows, ground truth
    before = places()
    page.locator("#compare").hover()
    page.mouse.wheel(0, -600)
    assert len(set(places()[1:])) == 1 and places() != before
    box = page.locator("#compare").bounding_box()
    page.mouse.move(box["x"] + 300, box["y"] + 200)
    zoomed = places()
    page.mouse.down()
    page.mouse.move(box["x"] + 260, box["y"] + 180)
    page.mouse.up()
    assert places() != zoomed
    page.locator("#slider").fill("20")
    assert page.locator("#compare .over").evaluate("e => e.offsetLeft / e.parentElement.clientWidth") == pytest.approx(
        0.2, abs=0.01
    )
    page.locator("#reset").click()
    assert places() == before


def test_worst_and_best_images_are_a_click_away(page: Any, report: Report) -> None:  # noqa: ANN401
    page.locator("#scores tbody tr", has_text="no_<jpeg>").click()
    worst = report.scores[0].difference_by_image("no_<jpeg>", "full").argmin()
    chip = page.locator("#worst button").first
    assert chip.inner_text().startswith(f"{worst} ")
    page.locator("#best button").first.click()
    assert page.locator("#best button[aria-pressed=true]").count() == 1


def test_curves_options_and_histograms_are_there(page: Any) -> None:  # noqa: ANN401
    assert page.locator("#plot polygon").count() == 3
    page.locator("#legend button").first.click()
    assert page.locator("#plot polygon").count() == 2
    assert "removed" in page.locator("#options").inner_text()
    assert page.locator("#hist svg").count() >= 3
    page.locator("#number").select_option("SSIM RGB")
    assert page.locator("#scores tbody tr").count() == 3


def test_a_paper_gets_tables_and_figures(report: Report, tmp_path: Path) -> None:
    text = latex(report)
    assert r"\toprule" in text and r"no\_<jpeg>" in text and text.count(r"\mathbf") == 1
    assert markdown(report).count("**") == 4  # the same scores under two names
    figures = write_figures(report, tmp_path)
    assert {path.name for path in figures} == {"intervals_Set5.pdf", "curves_Set5_PSNR.pdf"}
    assert all(path.read_bytes().startswith(b"%PDF") for path in figures)


def test_a_page_holds_what_it_needs(report: Report, tmp_path: Path) -> None:
    write_page(report, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "</script> ablation" not in text.replace("&lt;/script", "")
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "") and "https://" not in text
    assert cv2.imdecode(np.frombuffer(_first_image(text), np.uint8), cv2.IMREAD_COLOR).shape == (16, 20, 3)


def test_test_py_writes_the_page_for_checkpoints(tmp_path: Path) -> None:
    pictures(tmp_path / "gt", count=3)
    weights = [f"{name}={save_ours(tmp_path / f'{name}.safetensors', SRVGG, seed)}" for seed, name in enumerate("ab")]
    done = run("--weights", *weights, "--data", "Set5=gt", "-o", "out", "--page", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out" / "page.html").read_text(encoding="utf-8")
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    assert data["baseline"] == "a" and data["rows"] == ["bicubic", "a", "b"]
    assert {image["name"] for image in data["images"]["Set5"]} == {"0", "1", "2"}
    assert "of these very weights" in done.stdout + text or "no difference can be seen on 3 images" in text


def _first_image(text: str) -> bytes:
    return base64.b64decode(text.split("data:image/webp;base64,")[1].split('"')[0])
