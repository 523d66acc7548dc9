"""Entry points as processes of their own, without the seconds in which a new interpreter imports PyTorch.

A server that has imported it, and has done nothing else, is forked for each call (`forkserver` of multiprocessing).
"""

import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch

from tests.helpers import ROOT

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.preloaded"])


def environment() -> dict[str, str]:
    """One thread per process, and none of torchrun's variables."""
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    return {**kept, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def free_port() -> int:
    """A port of this machine that nobody listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Program:
    """`main` of a module at work with a command line, in a folder, in a session of its own, as many times as torchrun
    would start it. `before`, a function of a test module, is called there first, to change what it will meet."""

    def __init__(
        self,
        module: str,
        *arguments: str | Path,
        cwd: Path,
        ranks: int = 1,
        before: Callable[[], None] | None = None,
    ) -> None:
        self._place, port = tempfile.TemporaryDirectory(), free_port()
        self._outs, self._errs = ([Path(self._place.name) / f"{name}{i}" for i in range(ranks)] for name in ("o", "e"))
        given, self.processes = [str(argument) for argument in arguments], []
        path, os.environ["PYTHONPATH"] = os.environ.get("PYTHONPATH"), str(ROOT)  # for the server, when it starts
        try:
            for rank, (out, err) in enumerate(zip(self._outs, self._errs, strict=True)):
                variables = environment() | (as_rank(rank, ranks, port) if ranks > 1 else {})
                about = (module, given, str(cwd), variables, str(out), str(err), before)
                self.processes.append(_CONTEXT.Process(target=_run, args=about))
                self.processes[-1].start()
        finally:
            os.environ.pop("PYTHONPATH") if path is None else os.environ.update(PYTHONPATH=path)

    @property
    def pid(self) -> int:
        """The first rank's, and of its session and process group."""
        return self.processes[0].pid or 0

    def poll(self) -> int | None:
        """The exit status of the first rank, as `subprocess` gives it; None before its end."""
        return self.processes[0].exitcode

    def wait(self, timeout: float) -> tuple[int, str, str]:
        """The worst exit status, what the first rank put out and the errors of all. Raises TimeoutError."""
        end = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0, end - time.monotonic()))
        said = ["".join(file.read_text() for file in files if file.exists()) for files in (self._outs[:1], self._errs)]
        if any(process.exitcode is None for process in self.processes):
            for process in self.processes:
                process.kill()
            raise TimeoutError("hangs; it said\n{}\n{}".format(*said))
        return max((process.exitcode or 0 for process in self.processes), key=abs), said[0], said[1]


def call(
    module: str, *arguments: str | Path, cwd: Path, timeout: float = 300, ranks: int = 1
) -> subprocess.CompletedProcess[str]:
    """Run `main` of a module to its end, see `Program`. Raises TimeoutError."""
    return subprocess.CompletedProcess(
        [module, *map(str, arguments)], *Program(module, *arguments, cwd=cwd, ranks=ranks).wait(timeout)
    )


def as_rank(rank: int, ranks: int, port: int) -> dict[str, str]:
    """The variables that torchrun gives to one of its workers."""
    about = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port}
    return {name: str(value) for name, value in about.items()} | {"MASTER_ADDR": "127.0.0.1"}


def _run(
    module: str,
    arguments: list[str],
    cwd: str,
    variables: dict[str, str],
    out: str,
    err: str,
    before: Callable[[], None] | None,
) -> None:
    os.setsid()
    os.environ.clear()
    os.environ.update(variables)
    for number, name in ((1, out), (2, err)):
        file = os.open(name, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    os.chdir(cwd)
    torch.set_num_threads(1)
    multiprocessing.set_start_method(None, force=True)  # a server's child would start a server for its own workers
    sys.argv = [f"{module}.py", *arguments]
    try:
        if before is not None:
            before()
        status = import_module(module).main()
    except SystemExit as ended:
        status = ended.code
    except BaseException:  # noqa: BLE001  # as an interpreter does at its top
        traceback.print_exc()
        status = 1
    sys.exit(status)
