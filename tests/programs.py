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
from importlib import import_module
from pathlib import Path

import torch

from tests.helpers import ROOT

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["torch", "cv2", "train", "test", "models.training.preview"])


def environment() -> dict[str, str]:
    """One thread per process, and none of torchrun's variables."""
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT")}
    return {**kept, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def free_port() -> int:
    """A port of this machine that nobody listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def call(
    module: str, *arguments: str | Path, cwd: Path, timeout: float = 300, ranks: int = 1
) -> subprocess.CompletedProcess[str]:
    """Run `main` of a module with a command line, in a folder, in as many processes as torchrun would start.

    Returns the worst exit status, what the first rank put out and the errors of all. Raises TimeoutError.
    """
    with tempfile.TemporaryDirectory() as place:
        given, port = [str(argument) for argument in arguments], free_port()
        outs, errs = ([Path(place) / f"{name}{rank}" for rank in range(ranks)] for name in ("out", "err"))
        path, os.environ["PYTHONPATH"] = os.environ.get("PYTHONPATH"), str(ROOT)  # for the server, when it starts
        processes = []
        try:
            for rank, (out, err) in enumerate(zip(outs, errs, strict=True)):
                variables = environment() | (as_rank(rank, ranks, port) if ranks > 1 else {})
                about = (module, given, str(cwd), variables, str(out), str(err))
                processes.append(_CONTEXT.Process(target=_run, args=about))
                processes[-1].start()
        finally:
            os.environ.pop("PYTHONPATH") if path is None else os.environ.update(PYTHONPATH=path)
        end = time.monotonic() + timeout
        for process in processes:
            process.join(max(0, end - time.monotonic()))
        said = "".join(err.read_text() for err in errs if err.exists())
        if any(process.exitcode is None for process in processes):
            for process in processes:
                process.kill()
            raise TimeoutError(f"hangs; it said\n{outs[0].read_text()}\n{said}")
        status = max((process.exitcode or 0 for process in processes), key=abs)
        return subprocess.CompletedProcess([module, *given], status, outs[0].read_text(), said)


def as_rank(rank: int, ranks: int, port: int) -> dict[str, str]:
    """The variables that torchrun gives to one of its workers."""
    about = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port}
    return {name: str(value) for name, value in about.items()} | {"MASTER_ADDR": "127.0.0.1"}


def _run(module: str, arguments: list[str], cwd: str, variables: dict[str, str], out: str, err: str) -> None:
    os.environ.clear()
    os.environ.update(variables)
    for number, name in ((1, out), (2, err)):
        file = os.open(name, os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    os.chdir(cwd)
    torch.set_num_threads(1)
    sys.argv = [f"{module}.py", *arguments]
    try:
        status = import_module(module).main()
    except SystemExit as ended:
        status = ended.code
    except BaseException:  # noqa: BLE001  # as an interpreter does at its top
        traceback.print_exc()
        status = 1
    sys.exit(status)
