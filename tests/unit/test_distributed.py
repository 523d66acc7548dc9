"""Collectives over two gloo processes, and their absence in a run of one."""

import json
from pathlib import Path

import pytest
import torch

from tests.run.lives import apart
from utils.options.fields import OptionError
from utils.processes import distributed


def work(folder: str) -> None:
    p = distributed.start("cpu")
    x = torch.tensor([1.0, 2.0], dtype=torch.float64).mul(p.rank + 1).requires_grad_()
    mean = distributed.all_mean(x)
    # A loss that differs by rank: DDP averages the ranks' gradients, so the objective is the mean of the ranks' losses.
    loss = (mean**3).sum() * (p.rank + 1)
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), x)
    turned = distributed.all_mean(torch.arange(6.0).reshape(2, 3).t() * (p.rank + 1))
    flags = torch.tensor([p.rank, 1 - p.rank, 5], dtype=torch.int32)
    result = {
        **{"rank": p.rank, "local_rank": p.local_rank, "world_size": p.world_size, "main": p.is_main},
        "device": str(p.device),
        **{"x": x.tolist(), "mean": mean.tolist(), "gradient": gradient.tolist(), "second": second.tolist()},
        "turned": turned.tolist(),
        **{"agreed": distributed.agree(flags), "flags": flags.tolist()},
        "gathered": distributed.gather_objects({"rank": p.rank}),
        "text": distributed.broadcast_string(f"from {p.rank}"),
    }
    distributed.barrier()
    distributed.stop()
    (Path(folder) / f"{p.rank}.json").write_text(json.dumps(result))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    apart(work, folder, ranks=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def test_each_process_knows_itself(two: list[dict]) -> None:
    assert [r["rank"] for r in two] == [0, 1] and [r["local_rank"] for r in two] == [0, 1]
    assert [r["main"] for r in two] == [True, False]
    assert {(r["world_size"], r["device"]) for r in two} == {(2, "cpu")}


def test_all_mean_and_its_derivatives(two: list[dict]) -> None:
    x = [torch.tensor([1.0, 2.0], dtype=torch.float64).mul(rank + 1).requires_grad_() for rank in range(2)]
    mean = (x[0] + x[1]) / 2
    losses = (mean**3).sum() * 1 + (mean**3).sum() * 2
    gradients = torch.autograd.grad(losses, x)
    for rank, result in enumerate(two):
        assert result["x"] == x[rank].tolist()  # the argument itself stays as it was
        assert result["mean"] == mean.tolist()
        assert result["gradient"] == gradients[rank].tolist()
        assert result["turned"] == (torch.arange(6.0).reshape(2, 3).t() * 1.5).tolist()
    # d(sum of both ranks' gradient sums)/dx: 2 ranks x 3 (weights) x 6 m x 1/2 (mean in) x 1/2 (mean out)
    expected = (2 * 3 * 6 * mean / 4).tolist()
    assert [r["second"] for r in two] == [expected, expected]


def test_decisions_and_objects(two: list[dict]) -> None:
    for rank, result in enumerate(two):
        assert result["agreed"] == [1, 1, 5]
        assert result["flags"] == [rank, 1 - rank, 5]  # the argument itself stays as it was
        assert result["gathered"] == [{"rank": 0}, {"rank": 1}]
        assert result["text"] == "from 0"


def test_one_process_needs_no_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    processes = distributed.start("cpu")
    assert (processes.rank, processes.world_size, processes.is_main) == (0, 1, True)
    assert not torch.distributed.is_initialized()
    x = torch.rand(3, requires_grad=True)
    assert distributed.all_mean(x) is x
    assert distributed.agree(torch.tensor([2, 0])) == [2, 0]
    assert distributed.gather_objects("a") == ["a"]
    assert distributed.broadcast_string("a") == "a"
    distributed.barrier()
    distributed.stop()


def test_what_cannot_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(OptionError, match="expected auto, cpu, cuda"):
        distributed.start("gpu")
    with pytest.raises(OptionError, match="GPU 99 is asked for, but of GPUs this machine shows "):
        distributed.start("cuda:99")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(OptionError, match="RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not set; start with torchrun"):
        distributed.start("cpu")


@pytest.mark.parametrize("on_this_machine", ["1", "2"])
def test_ranks_on_several_machines_share_a_folder_that_all_of_them_see(
    on_this_machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", on_this_machine)
    with distributed.temporary_folder() as folder:
        assert folder.is_dir() and folder.is_relative_to(tmp_path) == (on_this_machine == "1")
    assert not folder.exists()
