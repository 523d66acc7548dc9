"""Short lives of `train.py` for the price of one import: a process that has imported it forks each of them.

Importing PyTorch takes seconds, so a run that is killed ten times would be little else. What forks must not have used
autograd, hence `apart`: the lives of a test are lived in a process of its own.
"""

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.helpers import ROOT
from tests.programs import as_rank, call, free_port
from tests.run.tiny import PATIENCE


def apart(function: Callable[..., Any], *arguments: object, ranks: int = 1) -> Any:  # noqa: ANN401
    """What a function of a test module returns (as JSON) when a fresh process calls it with these words; of several,
    which have the environment of torchrun's workers, what the first one returns."""
    words = (function.__module__, function.__name__, *map(str, arguments))
    done = call("tests.run.lives", *words, cwd=ROOT, timeout=PATIENCE, ranks=ranks)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Do as `apart` asks, in the process of its own."""
    module, name, *arguments = sys.argv[1:]
    sys.stdout.write(json.dumps(getattr(import_module(module), name)(*arguments)) + "\n")
    return 0


class Life:
    """A forked process with the environment of one of torchrun's workers, in a session of its own."""

    def __init__(self, work: Callable[[], int], log: Path, rank: int = 0, ranks: int = 1, port: int = 0) -> None:
        self.log = log
        self.pid = os.fork()
        if self.pid == 0:
            status = 70
            try:
                os.setsid()
                written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                for stream in (1, 2):
                    os.dup2(written, stream)
                os.environ.update(as_rank(rank, ranks, port))
                status = work()
            except BaseException:  # noqa: BLE001 - a fork must never return into its parent's code
                traceback.print_exc()
            os._exit(status)

    def wait(self) -> int:
        """Its exit status, or the negative number of the signal that killed it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def live(work: Callable[[], int], log: Path, ranks: int = 1) -> list[int]:
    """Lives as so many ranks until all have ended; returns their exit statuses."""
    port = free_port()
    return [life.wait() for life in [Life(work, log, rank, ranks, port) for rank in range(ranks)]]


def training(arguments: Sequence[str]) -> int:
    """`train.py` with these arguments; returns its exit status."""
    import train

    sys.argv = ["train.py", "--device", "cpu", *arguments]
    return train.main()
