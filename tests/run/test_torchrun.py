"""What only real torchrun processes show: two machines, signals through torchrun, restarts, and a long run's memory."""

import json
import os
import signal
import statistics
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch.distributed.run import get_args_parser

from tests.programs import free_port
from tests.run.tiny import PATIENCE, Training, finished, option_tree, pictures, write_options
from utils.storage.checkpoint import Checkpoints, load

pytestmark = pytest.mark.slow

TORCHRUNS_PATIENCE = 30
"""Seconds that torchrun gives its workers after a signal."""


# --- processes, as /proc shows them ----------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """The processes whose parent is this one."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
    return found


def ranks_of(torchrun: int) -> dict[int, int]:
    """The process of each rank."""
    found = {}
    for pid in children(torchrun):
        with suppress(OSError):
            about = dict(word.split("=", 1) for word in Path(f"/proc/{pid}/environ").read_text().split("\0") if word)
            if "RANK" in about:
                found[int(about["RANK"])] = pid
    return found


def resident_mb(pid: int) -> float:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


# --- several machines ------------------------------------------------------------------------------------------


def test_two_agents_train_together(tmp_path: Path) -> None:
    """As on two machines, one process on each: they find each other by their rendezvous and learn what one learns."""
    tree = option_tree(pictures(tmp_path / "images"), psnr=6, gan=2)
    tree["data"]["workers"] = 1
    options = write_options(tmp_path / "tiny.yml", tree)
    endpoint = f"--rdzv-endpoint=127.0.0.1:{free_port()}"
    node = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d", endpoint, "--rdzv-id=tiny")
    agents = [Training(options, tmp_path / "two", torchrun=node) for _ in range(2)]
    assert [agent.wait() for agent in agents] == [0, 0], agents[0].err + agents[1].err
    assert sorted("stage gan starts from" in agent.out for agent in agents) == [False, True]  # rank 0 alone speaks
    assert agents[0].status["state"] == "finished"
    one = finished(options, tmp_path / "one", "--stage", "psnr")
    ends = [load(run.folder / "checkpoints" / "psnr_00000006").networks["network_g"] for run in (agents[0], one)]
    for key, value in ends[0].items():
        torch.testing.assert_close(value, ends[1][key], rtol=1e-4, atol=1e-6)


# --- what it says ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranks", [1, 2])
def test_an_error_is_followed_by_no_page_of_tracebacks(ranks: int, tmp_path: Path) -> None:
    options = write_options(tmp_path / "tiny.yml", option_tree(pictures(tmp_path / "images")))
    wrong = ("--set", f"data.train.pictures.root={tmp_path / 'nowhere'}")
    given = ("--standalone", f"--nproc-per-node={ranks}")
    run = Training(options, tmp_path / "runs", *wrong, torchrun=given, launcher_module="utils.processes.launch")
    assert run.wait() == 1
    said = run.err.splitlines()
    assert said[0].startswith("error: data.train.pictures") and len(said) <= 2, run.err


def test_a_signal_is_followed_by_none_either(tmp_path: Path) -> None:
    options = write_options(tmp_path / "tiny.yml", option_tree(pictures(tmp_path / "images"), psnr=100000))
    stopped = Training(options, tmp_path / "one", ranks=2, launcher_module="utils.processes.launch")
    stopped.until("psnr_00000005").stop(signal.SIGINT)
    assert stopped.wait() == 128 + signal.SIGINT and stopped.status["state"] == "preempted"
    assert "everything is saved" in stopped.out and "Traceback" not in stopped.err, stopped.err
    killed = Training(options, tmp_path / "two", ranks=2, launcher_module="utils.processes.launch")
    os.kill(ranks_of(killed.until("psnr_00000005").process.pid)[1], signal.SIGKILL)
    assert killed.wait() == 128 + signal.SIGKILL
    assert "error: rank 1 was ended by SIGKILL, perhaps for want of memory" in killed.err
    assert "ChildFailedError" not in killed.err


# --- signals ---------------------------------------------------------------------------------------------------

SLOW_DISK = """
import os, sys, time
sys.path.insert(0, os.getcwd())
import train
honest = os.fsync
def slow(descriptor):
    time.sleep(0.1)
    honest(descriptor)
os.fsync = slow
sys.exit(train.main())
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGUSR1"])
def test_a_signal_ends_two_ranks_in_time_and_a_second_one_does_not_break_the_save(name: str, tmp_path: Path) -> None:
    number = signal.Signals[name]
    more: tuple[str, ...] = ()
    if number == signal.SIGUSR1:  # older versions of torchrun would die of it and leave their workers alone
        if not any("--signals-to-handle" in action.option_strings for action in get_args_parser()._actions):
            pytest.skip("this torchrun does not hand on SIGUSR1")
        more = ("--signals-to-handle=SIGTERM,SIGINT,SIGUSR1",)
    script = tmp_path / "slow_disk.py"
    script.write_text(SLOW_DISK)
    tree = option_tree(pictures(tmp_path / "images"), psnr=100000, save_every=30)
    options = write_options(tmp_path / "tiny.yml", tree)
    run = Training(options, tmp_path / "runs", ranks=2, torchrun=more, command=(str(script),)).until("psnr_00000030")
    workers = ranks_of(run.process.pid)
    assert sorted(workers) == [0, 1]
    begun = time.monotonic()
    run.stop(number, group=False)
    while not list((run.folder / "checkpoints").glob(".tmp-psnr_*")):
        assert time.monotonic() - begun < TORCHRUNS_PATIENCE, "no save began"
        time.sleep(0.005)
    for pid in workers.values():
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    run.wait()
    assert time.monotonic() - begun < TORCHRUNS_PATIENCE
    assert run.status["state"] == "preempted" and run.status["reason"] == name, run.err
    assert "everything is saved" in run.out and 'train.py", line' not in run.err
    told: list[str] = []
    newest = Checkpoints(run.folder / "checkpoints", warn=told.append).newest()
    assert newest is not None and not told and not list(newest.parent.glob(".tmp-*"))
    assert load(newest).meta["iteration"] > 30


# --- the soak --------------------------------------------------------------------------------------------------

ITERATIONS, KILLS = 2000, (60, 150, 240, 330)
"""The kills come early, so that one life covers the second quarter and the last."""

FLAT = 0.05


def iteration_of(run: Training) -> int:
    """The last one in metrics.jsonl."""
    with suppress(OSError, IndexError, ValueError, KeyError):
        return json.loads((run.folder / "metrics.jsonl").read_text().splitlines()[-1])["iteration"]
    return 0


def test_a_long_run_with_kills_ends_by_itself_and_its_memory_is_flat(tmp_path: Path) -> None:
    """2,000 iterations of a GAN on two ranks with one loader worker each. Four times a rank is killed; torchrun starts
    both again, and they go on."""
    tree = option_tree(pictures(tmp_path / "images"), gan=ITERATIONS, print_every=10, save_every=25)
    del tree["stages"]["psnr"], tree["stages"]["gan"]["init_from"]
    tree["data"]["workers"] = 1
    options = write_options(tmp_path / "tiny.yml", tree)
    run = Training(options, tmp_path / "runs", ranks=2, torchrun=("--max-restarts=4",))
    measured: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))  # MiB by process and quarter
    kills, killed = list(KILLS), 0
    deadline = time.monotonic() + 2 * PATIENCE
    while run.process.poll() is None:
        if time.monotonic() > deadline:
            run.stop(signal.SIGTERM)  # torchrun ends its workers, which would outlive a kill
        iteration, ranks = iteration_of(run), ranks_of(run.process.pid)
        if kills and iteration >= kills[0] and len(ranks) == 2 and killed not in ranks.values():
            killed = ranks[len(kills) % 2]
            os.kill(killed, signal.SIGKILL)
            kills.pop(0)
        with suppress(OSError, IndexError):
            for name, pid in [("torchrun", run.process.pid), *((f"rank {r}", pid) for r, pid in ranks.items())]:
                measured[name][iteration * 4 // ITERATIONS].append(resident_mb(pid))
                if name != "torchrun":
                    measured[f"worker of {name}"][iteration * 4 // ITERATIONS].append(resident_mb(children(pid)[0]))
        time.sleep(0.2)
    assert run.wait() == 0, run.err
    assert not kills and run.out.count("resuming from") == len(KILLS)
    logged = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in logged if "lr" in line] == list(range(10, ITERATIONS + 1, 10))
    assert len(measured) == 5
    for name, quarters in measured.items():
        second, last = statistics.mean(quarters[1]), statistics.mean(quarters[3])
        assert abs(last / second - 1) < FLAT, f"{name}: {second:.0f} MiB in the second quarter, {last:.0f} in the last"
