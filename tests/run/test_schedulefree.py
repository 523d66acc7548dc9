"""Schedule-free optimizers: what is judged and kept is their average, and a resumed run ends bit for bit alike."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.run.tiny import (
    PREEMPTED,
    Training,
    assert_equal_states,
    final_states,
    finished,
    option_tree,
    pictures,
    write_options,
)
from utils.optim import Ema, Optim, at_average

pytest.importorskip("schedulefree", reason="the extra `schedulefree` is not installed")

ADAMW = {"type": "adamw_schedulefree", "lr": 1e-3, "betas": [0.9, 0.99]}
SGD = {"type": "sgd_schedulefree", "lr": 0.1, "momentum": 0.9}


def train(options: dict[str, Any], steps: int) -> tuple[nn.Linear, torch.optim.Optimizer]:
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.fill_(0.5)
        layer.bias.fill_(0.1)
    optimizer = Optim(**{**options, "betas": tuple(options.get("betas", (0.9, 0.99)))}).build(layer.parameters())
    for step in range(steps):
        optimizer.zero_grad()
        (layer(torch.full((3, 4), step + 1.0)) - 1).square().mean().backward()
        optimizer.step()
    return layer, optimizer


@pytest.mark.parametrize("options", [ADAMW, SGD])
def test_the_average_is_the_optimizers_own(options: dict[str, Any]) -> None:
    """As its `eval` gives it; and looking at it changes nothing of what is learned."""
    (layer, optimizer), (other, plain) = (train(options, 5) for _ in range(2))
    before, ema = layer.weight.clone(), Ema(layer, 0.0)
    with at_average(optimizer, layer):
        ema.update(layer)
    assert torch.equal(layer.weight, before) and torch.equal(layer.weight, other.weight)
    plain.eval()  # pyright: ignore[reportAttributeAccessIssue]
    assert torch.equal(ema.network.weight, other.weight) and not torch.equal(other.weight, before)


@pytest.mark.slow
@pytest.mark.parametrize("options", [ADAMW, SGD])
def test_goes_on_bit_for_bit(options: dict[str, Any], tmp_path: Path) -> None:
    tree = option_tree(pictures(tmp_path / "images"), psnr=60)
    tree["stages"]["psnr"] |= {"optim_g": options, "ema_decay": 0, "schedule": {"type": "constant", "warmup": 10}}
    tree["stages"]["gan"] |= {"optim_g": options, "optim_d": options, "ema_decay": 0.9, "ema_power": 0.75}
    file = write_options(tmp_path / "free.yml", tree)
    whole = final_states(finished(file, tmp_path / "whole").folder)
    stopped = Training(file, tmp_path / "runs").until("psnr_00000005")
    stopped.stop(signal.SIGTERM)
    assert stopped.wait() == PREEMPTED
    assert_equal_states(final_states(finished(file, tmp_path / "runs").folder), whole)
    name = next(key for key in whole if key.startswith("psnr.networks.network_g."))
    assert not torch.equal(whole[name], whole[name.replace("network_g.", "network_g_ema.")])
