"""Tables in the papers' layout: cells that are means over several settings, as CDSR's nine kernels of each image."""

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from models.benchmarking.benchmark import (
    BICUBIC,
    BenchmarkOptions,
    Measure,
    SetResult,
    benchmark_sets,
    check_benchmark,
    keep_best,
    metric_specs,
)
from models.benchmarking.grid import GridResult, grid_cells, run_grid, with_published
from tests.run.tiny import pictures
from utils.images.files import from_tensor, to_uint8, write_image
from utils.logging import Console
from utils.metrics import Metric
from utils.metrics.protocol import PROTOCOLS
from utils.options import files as option_files
from utils.processes import distributed

TABLES = Path(__file__).parents[2] / "options" / "test"


def table(name: str, row: str, **data: Any) -> dict[str, Any]:  # noqa: ANN401
    """One row of a shipped table, on these data sets."""
    tree = option_files.load(TABLES / f"{name}.yml")
    tree["grid"]["rows"] = {row: tree["grid"]["rows"][row]}
    tree["grid"]["published"] = {"Set5": {"images": 27, "rows": {row: {"theirs": [30, 0.9]}}}}
    return {**tree, "data": data}


def benchmarks(tree: dict[str, Any]) -> list[BenchmarkOptions]:
    """Those that the only cell of a table is the mean of."""
    grid = check_benchmark(tree).grid
    assert grid is not None
    (found,) = grid_cells(tree, grid, "").values()
    return found


def measured(tree: dict[str, Any]) -> tuple[GridResult, dict[tuple[str, str, str], float]]:
    """What a table gives for bicubic, and the numbers with published ones."""
    grid, measure = check_benchmark(tree).grid, Measure.build(metric_specs(), "cdsr")
    assert grid is not None
    build: Any = None  # there is nothing to restore with
    cells, processes = grid_cells(tree, grid, ""), distributed.start("cpu")
    (found,) = run_grid(cells, grid, {}, build, measure, processes, Console(rank=1))
    return found, with_published(found, grid, measure.columns).numbers


@pytest.mark.parametrize("row", ["x2", "x3", "x4", "x4, noise 15"])
def test_cdsr_is_measured_with_the_kernels_of_manet(row: str, tmp_path: Path) -> None:
    """Variances 1 to 1 + 2 s in steps of s, the second not above the first; turned by 45 degrees where that shows."""
    tree, scale = table("cdsr_aniso", row, Set5={"type": "folder", "root": str(pictures(tmp_path))}), int(row[1])
    found = []
    for checked in benchmarks(tree):
        batch = benchmark_sets(checked)[0].valid[0].batch
        blur = dict(batch.plans[0].steps)["blur"]
        found.append((*blur["variances"], round(blur["theta"], 3)))
        assert batch.sigma is not None and float(255 * batch.sigma) == pytest.approx(15 if "noise" in row else 0)
    widths = (1, 1 + scale, 1 + 2 * scale)
    expected = [(a, b, t) for a, b, t in product(widths, widths, (0, 0.785)) if b < a or (b == a and t == 0)]
    assert sorted(found) == expected


def test_images_made_before_give_what_images_made_now_give(tmp_path: Path) -> None:
    """Nine low-quality images of each image, and its ground truth nine times, as MANet writes them."""
    tree = table("cdsr_aniso", "x2", Set5={"type": "folder", "root": str(pictures(tmp_path / "gt", 3))})
    for number, checked in enumerate(benchmarks(tree)):
        (tested,) = benchmark_sets(checked)
        for index, name in enumerate(tested.images):
            item = tested.valid[index]
            write_image(tmp_path / "HR_si" / f"{name}_{number}.png", to_uint8(from_tensor(item.gt[0])))
            write_image(tmp_path / "LR" / f"{name}_{number}.png", to_uint8(from_tensor(item.batch.lq[0])))
    pairs = {"type": "paired", "gt_root": str(tmp_path / "HR_si"), "lq_root": str(tmp_path / "LR")}
    (now, numbers), (before, _) = measured(tree), measured(table("cdsr_given", "x2", Set5=pairs))
    assert now.images == before.images == 27
    assert now.numbers == pytest.approx(before.numbers)
    assert numbers["x2", "theirs (published)", "SSIM Y"] == 0.9, "27 images are those of the published set"
    assert numbers["x2", BICUBIC, "PSNR Y"] > 20


@pytest.mark.parametrize(("kind", "chosen"), [("psnr", "alpha 2"), ("niqe", "alpha 1")])
def test_a_baseline_stands_at_its_best_by_the_direction_of_the_number(kind: str, chosen: str) -> None:
    metric = Metric()
    metric.higher_is_better = kind == "psnr"
    measure = Measure({kind.upper(): metric}, {"Y": PROTOCOLS["basicsr_y"]})
    number = f"{kind.upper()} Y"
    scores = {row: {"a.png": {number: value}} for row, value in {BICUBIC: 0, "cf alpha 1": 4, "cf alpha 2": 7}.items()}
    tried: Any = {"cf": {"alpha 1": None, "alpha 2": None}}
    result = keep_best(SetResult("set", 2, "given", scores, []), tried, measure)
    words = "highest" if kind == "psnr" else "lowest"
    assert result.remarks == [f"`cf`: {chosen}, which gives the {words} mean {number}"]
    assert result.scores["cf"] == scores[f"cf {chosen}"]
