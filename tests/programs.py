"""Entry points as processes of their own, without the seconds in which a new interpreter imports PyTorch.

A server that has imported it, and has done nothing else, is forked for each call (`forkserver` of multiprocessing).
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
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


def call(module: str, *arguments: str | Path, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run `main` of a module with a command line, in a folder; return exit status and output. Raises TimeoutError."""
    with tempfile.TemporaryDirectory() as place:
        out, err = Path(place) / "out", Path(place) / "err"
        given = [str(argument) for argument in arguments]
        path, os.environ["PYTHONPATH"] = os.environ.get("PYTHONPATH"), str(ROOT)  # for the server, when it starts
        try:
            process = _CONTEXT.Process(target=_run, args=(module, given, str(cwd), environment(), str(out), str(err)))
            process.start()
        finally:
            os.environ.pop("PYTHONPATH") if path is None else os.environ.update(PYTHONPATH=path)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"hangs; it said\n{out.read_text()}\n{err.read_text()}")
        return subprocess.CompletedProcess([module, *given], process.exitcode, out.read_text(), err.read_text())


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
