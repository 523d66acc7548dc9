"""The console, the progress line, metrics on disk, status, memory, and sample sheets."""

import io
import json
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.boards import TensorBoard, WeightsAndBiases
from utils.images.sheet import sheet, strip
from utils.logging import Console, MetricsLog, memory_mb, table, write_status
from utils.options.fields import OptionError


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_only_the_main_process_speaks_but_errors_always(capsys: pytest.CaptureFixture[str]) -> None:
    for rank in (0, 1):
        console = Console(rank)
        console.info("hello")
        console.warn("careful", once="key")
        console.warn("careful", once="key")
        console.warn("again")
        console.warn("again")
        console.error("broken")
    out, err = capsys.readouterr()
    assert out == "hello\n"
    assert err.splitlines() == [
        "warning: careful",
        "warning: again",
        "warning: again",
        "error: broken",
        "error (rank 1): broken",
    ]


def test_what_a_terminal_cannot_show_ends_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", shown)
    console = Console()
    console.keep(tmp_path / "console.log")
    console.info("left out: " + os.fsdecode(b"caf\xe9") + " \u2192")
    assert shown.buffer.getvalue() == b"left out: caf\\udce9 \\u2192\n"  # pyright: ignore[reportAttributeAccessIssue]
    assert "caf\\udce9 \u2192" in (tmp_path / "console.log").read_text(encoding="utf-8")


def test_a_table_is_aligned_markdown() -> None:
    text = table(["set", "PSNR"], [["Set5", "31.2"], ["a|b", 7]])
    assert text.splitlines() == [
        "| set  | PSNR |",
        "| ---- | ---: |",
        "| Set5 | 31.2 |",
        "| a\\|b |    7 |",
    ]
    with pytest.raises(ValueError, match="expected 2"):
        table(["a", "b"], [["only one"]])


def test_progress_off_a_terminal_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().progress(total=200, initial=100, desc="psnr", every_seconds=0.05) as bar:
        for _ in range(40):
            with bar.waiting():
                time.sleep(0.004)
            bar.update(loss=0.125)
    shown = capsys.readouterr().out.splitlines()
    assert 2 <= len(shown) < 40
    assert shown[-1].startswith("psnr: 140/200 (70%), ")
    assert re.search(r" it/s, 00:\d\d left, data wait \d+%, loss 0\.125$", shown[-1])
    assert 1 < bar.speed < 250 and bar.wait_share > 0.1  # each step sleeps 4 ms


def test_progress_of_other_ranks_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with Console(1).progress(total=2, every_seconds=0) as bar:
        bar.update()
    assert capsys.readouterr() == ("", "")
    assert bar.done == 1


def test_metrics_are_lines_of_json(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.scalars("psnr", 10, {"pixel": torch.tensor(0.5).item(), "bad": float("nan")})
    entry = lines(tmp_path)[0]  # flushed before close
    assert entry["time"] > 1e9
    assert {k: v for k, v in entry.items() if k != "time"} == {
        **{"stage": "psnr", "iteration": 10, "pixel": 0.5, "bad": None}
    }
    log.close()
    assert not (tmp_path / "tensorboard").exists()


def test_a_resume_cuts_what_came_later_in_that_stage(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.scalars("first", 900, {"x": 1})
    for iteration in (10, 20, 30):
        log.scalars("second", iteration, {"x": 1})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "second", "iterat')  # killed in the middle of a line
    log = MetricsLog(tmp_path)
    log.resume("second", 20)
    log.scalars("second", 30, {"x": 2})
    log.close()
    found = [(e["stage"], e["iteration"], e["x"]) for e in lines(tmp_path)]
    assert found == [("first", 900, 1), ("second", 10, 1), ("second", 20, 1), ("second", 30, 2)]


def test_half_a_line_is_dropped_without_a_resume(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"stage": "a", "iteration": 1}\n{"sta')
    log = MetricsLog(tmp_path)
    log.scalars("a", 2, {})
    log.close()
    assert [e["iteration"] for e in lines(tmp_path)] == [1, 2]


def test_tensorboard_curves_stay_continuous_over_a_resume(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log = MetricsLog(tmp_path, [TensorBoard(tmp_path)])
    for iteration in (1, 2, 3):
        log.scalars("psnr", iteration, {"pixel": iteration}, losses={"pixel"})
    log.scalars("psnr", 3, {"hr/PSNR": 30, "lr": 1e-4, "speed": 2, "grad_norm_g": 1})
    log.image("psnr", 1, "hr", np.zeros((8, 8, 3), np.uint8))
    log.close()
    log = MetricsLog(tmp_path, [TensorBoard(tmp_path)])
    log.resume("psnr", 1)
    log.scalars("psnr", 2, {"pixel": 20}, losses={"pixel"})
    log.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard" / "psnr")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("2 losses/pixel")] == [(1, 1.0), (2, 20.0)]
    shown = {"1 validation/hr PSNR", "2 losses/pixel", "3 rate and speed/lr", "3 rate and speed/speed"}
    assert set(events.Tags()["scalars"]) == shown | {"4 health/grad_norm_g"}
    assert set(events.Tags()["images"]) == {"1 validation/hr samples"}


def test_weights_and_biases_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline; without the package its extra is named."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for iteration in (1, 2):
        board = WeightsAndBiases(tmp_path, {"scale": 2})
        log = MetricsLog(tmp_path, [board])
        log.scalars("psnr", iteration, {"pixel": 0.5}, losses={"pixel"})
        log.image("psnr", iteration, "hr", np.zeros((8, 8, 3), np.uint8))
        assert board._run.name == tmp_path.name and board._run.config["scale"] == 2
        assert board._run.summary["psnr/2 losses/pixel"] == 0.5
        log.close()
    runs = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len({run.name.rpartition("-")[2] for run in runs}) == 1
    assert list((tmp_path / "wandb").rglob("media/images/psnr/1 validation/*.png"))


def test_weights_and_biases_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(OptionError, match=r"logger.wandb: .*pip install -e '.\[wandb\]'"):
        WeightsAndBiases(tmp_path, {})


def test_status_and_memory(tmp_path: Path) -> None:
    write_status(tmp_path, Console(), "preempted", "SIGTERM")
    write_status(tmp_path, Console(rank=1), "running")  # not the main process: writes nothing
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["reason"]) == ("preempted", "SIGTERM")
    assert [p.name for p in tmp_path.iterdir()] == ["status.json"]
    memory = memory_mb()
    before, block = memory["ram"], np.ones(8_000_000)
    assert 10 < before <= memory["ram_peak"] * 1.01
    assert 30 < memory_mb()["ram"] - before < 200 and block[0] == 1


def test_sheet_shows_own_pixels_under_captions() -> None:
    rng = np.random.default_rng(0)
    small, large = (rng.integers(0, 256, (size, size, 3), np.uint8) for size in (20, 90))
    row = strip([small, large], ["lq ×4", "a caption that needs more than one line of its image"])
    assert row.dtype == np.uint8 and row.shape[0] > 90 + 40
    bar = row.shape[0] - 90
    assert np.array_equal(row[bar : bar + 80 : 4, :80:4], small)  # 90 // 20 = 4 times, by repeating
    assert np.array_equal(row[bar:, 84:174], large)
    assert row[:bar].max() > 200  # something is written
    assert np.array_equal(row, strip([small, large], ["lq ×4", "a caption that needs more than one line of its image"]))
    both = sheet([row, strip([small], ["x"])])
    assert both.shape[1] == row.shape[1] and np.array_equal(both[: row.shape[0]], row)
    with pytest.raises(ValueError, match="expected as many"):
        strip([small], [])
    with pytest.raises(ValueError, match="uint8"):
        strip([small.astype(np.float32)], ["x"])
