"""A real contrastive run, encoder first and then jointly: killed in both stages, it ends as one that was not."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest

import train
from tests.run.lives import apart, live, training
from tests.run.tiny import assert_equal_states, final_states, option_tree, pictures, write_options
from utils.storage.checkpoint import Checkpoints, load

STAGES = ("encoder", "joint")
LENGTH, KILLED_AFTER = 7, 5


def contrastive_tree(images: Path) -> dict[str, Any]:
    """Saves every two iterations. The batch does not divide the queue, which is full after five."""
    tree = option_tree(images, save_every=2)
    shared = {"type": "contrastive", "iterations": LENGTH, "queue_size": 15, "momentum": 0.9, "ema_decay": 0.9}
    start = {"stage": "encoder", "weights": "raw", "carry": ["network_g", "contrastive", "optimizer"]}
    joint = {"init_from": start, "losses": {"l1": {"type": "l1"}}, "freeze_encoder_at": 5, "accumulate": 2}
    tree["stages"] = {"encoder": shared, "joint": {**shared, **joint, "key_statistics": "momentum"}}
    tree["network_g"] = {"type": "dasr", "num_feat": 8, "num_group": 1, "num_block": 1, "encoder_feat": 4}
    tree["data"] |= {"batch_size": 4, "workers": 1}
    return tree


def lives(options: str, runs: str, ranks: str) -> list[list[int]]:
    """A run in one go; then one that is killed in each of its stages and started again. All exit statuses."""
    honest = train.Trainer.train_step

    def work(folder: Path, fatal: str | None) -> int:
        def step(self: train.Trainer, micros: Any) -> Any:  # noqa: ANN401
            if (self.name, self.iteration) == (fatal, KILLED_AFTER):
                os.kill(os.getpid(), signal.SIGKILL)
            return honest(self, micros)

        train.Trainer.train_step = step
        return training(["--opt", options, "--runs", str(folder)])

    found = []
    for name, fatal in (("whole", None), ("killed", "encoder"), ("killed", "joint"), ("killed", None)):
        folder = Path(runs) / name
        folder.mkdir(exist_ok=True)
        found.append(live(lambda folder=folder, fatal=fatal: work(folder, fatal), folder / "log", int(ranks)))
    return found


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_run_ends_as_one_that_was_not(tmp_path: Path, ranks: int) -> None:
    """Bit for bit: weights, queue, pointer, key encoder, moments; with a worker, through the hand-over, and where the
    key encoder follows statistics that differ between ranks."""
    options = write_options(tmp_path / "tiny.yml", contrastive_tree(pictures(tmp_path / "images")))
    killed = [[-signal.SIGKILL] * ranks] * 2
    found = apart(lives, options, tmp_path, ranks)
    log = (tmp_path / "killed" / "log").read_text()
    assert found == [[0] * ranks, *killed, [0] * ranks], log
    assert "stage encoder, iteration 4" in log and "stage joint, iteration 4" in log
    ends = [tmp_path / name / "tiny" for name in ("whole", "killed")]
    assert_equal_states(*(final_states(folder, STAGES) for folder in ends))
    scored = (ends[0] / "results.md").read_text()  # an encoder that learned alone has restored nothing yet
    assert "joint stage" in scored and "encoder stage" not in scored
    assert "joint_00000007" in log.splitlines()[-1] and "encoder_00000007" not in log.splitlines()[-1]
    assert "joint 0: pictures PSNR" in log and "encoder 7: pictures PSNR" not in log
    for stage, pointer in (("encoder", 28 % 15), ("joint", 56 % 15)):
        last = Checkpoints(ends[0] / "checkpoints").finished(stage)
        assert last is not None and load(last).networks["contrastive"]["queue_ptr"].tolist() == [pointer]
