"""Health warnings, on synthetic logs."""

import pytest
import torch

from losses import LOSSES
from losses.gan import GanLoss
from models.stages.stage import colour_drift
from models.training.experiment import Health
from models.training.watch import HealthWatch


@pytest.mark.parametrize(
    ("key", "bad", "advice"),
    [("d_accuracy", 0.97, "optim_d.lr"), ("colour_drift", 4.0, "pixel loss"), ("wait_share", 0.3, "data.workers")],
)
def test_warns_once_after_long_enough_and_again_after_a_recovery(key: str, bad: float, advice: str) -> None:
    watch = HealthWatch(Health(steps=1000))

    def run(first: int, last: int, value: float) -> list[str]:
        return [text for i in range(first, last + 1, 100) for text in watch.look(i, {key: value, "l1": 9.0})]

    assert run(100, 1000, bad) == []  # above for 900 iterations
    (text,) = run(1100, 5000, bad)
    assert f"since iteration 100: {''}" in text and advice in text and "logger.health." in text
    assert run(5100, 5100, 0.0) == [] and run(5200, 6100, bad) == []
    assert len(run(6200, 9000, bad)) == 1


def test_one_good_value_starts_the_count_anew_and_null_switches_off() -> None:
    watch = HealthWatch(Health(steps=300, d_accuracy=None))
    values = [4, 4, 4, 1, 4, 4, 4, 4]
    found = [watch.look(100 * i, {"colour_drift": v, "d_accuracy": 1.0}) for i, v in enumerate(values)]
    assert [len(texts) for texts in found] == [0, 0, 0, 0, 0, 0, 0, 1]


def test_colour_drift_and_accuracy_by_hand() -> None:
    sr = torch.zeros(2, 3, 4, 4)
    sr[:, 1] = 10 / 255
    assert float(colour_drift(sr, torch.zeros(2, 3, 2, 2))) == pytest.approx(10, rel=1e-5)
    for kind, expected in {"vanilla": 0.75, "lsgan": 0.5, "ragan": 0.75}.items():
        loss = LOSSES.check({"type": "gan", "kind": kind}).component()
        assert isinstance(loss, GanLoss)
        assert float(loss.accuracy(torch.tensor([0.3, 0.2]), torch.tensor([0.1, -1.0]))) == expected


def test_another_stage_counts_anew() -> None:
    watch = HealthWatch(Health(steps=300))
    assert not watch.look(900, {"colour_drift": 4.0})
    assert [len(watch.look(100 * i, {"colour_drift": 4.0})) for i in range(1, 6)] == [0, 0, 0, 1, 0]
