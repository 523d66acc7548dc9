"""What a run remembers of itself: scores, gradients that were not finite, its log."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from models.training import watch
from models.training.experiment import Logger
from models.training.watch import Watcher
from utils import logging
from utils.logging import Console
from utils.processes.distributed import Processes

ALONE = Processes(rank=0, world_size=1, local_rank=0, device=torch.device("cpu"))


def watcher_of(folder: Path, *sets: str) -> Watcher:
    valid: Any = [SimpleNamespace(name=name, entry=SimpleNamespace(embedding=None)) for name in sets]
    return Watcher(Logger(tensorboard=False), valid, folder, ALONE, Console())


def test_a_validation_that_was_interrupted_leaves_all_scores_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a checkpoint would be the best by the mean of a new set and an old one."""
    watcher = watcher_of(tmp_path, "a", "b")

    def validate(iteration: int, *results: tuple[dict[str, float], list[Any]] | None) -> None:
        given = iter(results)
        monkeypatch.setattr(watch, "evaluate", lambda *_: next(given))
        watcher.validate("psnr", iteration, torch.nn.Identity(), torch.device("cpu"), lambda: 0)

    validate(100, ({"PSNR": 20.0}, []), ({"PSNR": 30.0}, []))
    validate(200, ({"PSNR": 28.0}, []), None)
    assert (watcher.means(), watcher.scored_at) == ({"PSNR": 25.0}, 100)
    validate(300, ({"PSNR": 28.0}, []), ({"PSNR": 32.0}, []))
    assert (watcher.means(), watcher.scored_at) == ({"PSNR": 30.0}, 300)


def test_a_stage_begins_without_what_was_counted_in_another(tmp_path: Path) -> None:
    """On every rank: those that count otherwise would give up at another step, and leave the rest waiting."""
    watcher = watcher_of(tmp_path)
    watcher.nonfinite("psnr", 60, "g", [])
    watcher.scores, watcher.scored_at = {"a": {"PSNR": 20.0}}, 60
    watcher.enter_stage()
    assert (watcher.nonfinite_in_a_row, watcher.means(), watcher.scored_at) == (0, {}, None)


def test_a_log_goes_on_where_a_full_disk_keeps_it_from_being_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watcher = watcher_of(tmp_path)
    watcher.record("psnr", 10, {"l1": 0.5})

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(logging, "replace_text", full)
        watcher.resume("psnr", 5)
    assert "logs cannot be written, training goes on: No space left" in capsys.readouterr().err
    watcher.record("psnr", 6, {"l1": 0.4})
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
