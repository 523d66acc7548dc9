"""Degrading ahead: the same batches, in order, and nothing left running."""

import threading
from collections.abc import Generator
from contextlib import nullcontext
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from data.ahead import ahead
from data.training import Sample, collate, degrade
from degradations import DEGRADATIONS, Batch

CPU = torch.device("cpu")


def steps(count: int, degradation: object, closed: list[bool]) -> Generator[list[Batch]]:
    """Steps of two micro-batches of one image each."""
    try:
        for i in range(count):
            rng = np.random.default_rng(i)
            gts = [torch.from_numpy(rng.integers(0, 256, (3, 32, 32), dtype=np.uint8)) for _ in range(2)]
            plans = [degradation.sample(rng, (32, 32)) for _ in gts]  # type: ignore[attr-defined]
            yield [collate([Sample([gt], [None], [plan], [str(i)])]) for gt, plan in zip(gts, plans, strict=True)]
    finally:
        closed.append(True)


def test_the_same_batches_come_in_the_same_order() -> None:
    degradation = DEGRADATIONS.build({"type": "gaussian"}, scale=2)
    closed: list[bool] = []
    plain = [[degrade(m, [degradation], CPU) for m in micros] for micros in steps(5, degradation, closed)]
    early = list(ahead(steps(5, degradation, closed), [degradation], CPU))
    assert len(early) == len(plain) == 5 and closed == [True, True]
    for micros, batches in zip(early, plain, strict=True):
        for samples, batch in zip(micros, batches, strict=True):
            assert samples.gt is None and samples.paths == batch.paths
            made = degrade(samples, [degradation], CPU)
            assert torch.equal(made.lq, batch.lq) and torch.equal(made.targets["plain"], batch.targets["plain"])


def test_leaving_early_closes_the_loader_and_the_thread() -> None:
    degradation = DEGRADATIONS.build({"type": "gaussian"}, scale=2)
    closed: list[bool] = []
    batches = ahead(steps(50, degradation, closed), [degradation], CPU)
    next(batches)
    assert any(thread.name.startswith("degrade") for thread in threading.enumerate())
    batches.close()
    assert closed == [True] and not any(thread.name.startswith("degrade") for thread in threading.enumerate())


def test_what_goes_wrong_ahead_is_raised_in_the_loop() -> None:
    degradation = DEGRADATIONS.build({"type": "gaussian"}, scale=2)

    def failing() -> Generator[list[Batch]]:
        yield from steps(2, degradation, [])
        raise InterruptedError("the disk is gone")

    batches = ahead(failing(), [degradation], CPU)
    assert next(batches) and next(batches)
    with pytest.raises(InterruptedError, match="disk"):
        next(batches)


def test_the_thread_works_on_the_gpu_of_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread's own choice is the first GPU, where each rank would set up a context besides."""
    chosen: list[tuple[str, torch.device]] = []
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: chosen.append((threading.current_thread().name[:7], device))
    )
    for name in ("Stream", "Event", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    degradation = DEGRADATIONS.build({"type": "gaussian"}, scale=2)
    made = MagicMock(targets={}, kernel=None, sigma=None)
    monkeypatch.setattr("data.ahead.degrade", lambda *_: made)
    second = torch.device("cuda", 1)
    assert len(list(ahead(steps(3, degradation, []), [degradation], second))) == 3
    assert chosen == [("degrade", second)]


def test_no_steps_are_no_steps() -> None:
    assert list(ahead(steps(0, None, []), [], CPU)) == []
