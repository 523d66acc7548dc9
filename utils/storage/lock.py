"""Keeps two runs out of one folder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType

from utils.options.fields import OptionError


class RunLock:
    """A lock on a run folder, held until `release`, or until the process ends however it ends.

    The file `run.lock` stays behind: the lock is the kernel's, the file only says who holds it. A POSIX lock,
    not flock: data workers are forked, and a forked child would keep an flock after its parent was killed.
    So it guards between processes, not within one.
    """

    def __init__(self, folder: str | Path) -> None:
        """Take the lock, making the folder if need be. Raises OptionError naming the holder, or for a file there."""
        self.path = Path(folder) / "run.lock"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise OptionError(f"{folder}: a file is where this folder should be; choose another place") from None
        self._descriptor: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _describe(os.pread(self._descriptor, 4096, 0))
            self.release()
            raise OptionError(f"{folder}: {holder} is using this run folder; stop it, or choose another name") from None
        started = time.strftime("%Y-%m-%d %H:%M:%S")
        about = {"host": socket.gethostname(), "pid": os.getpid(), "started": started}
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, json.dumps(about).encode(), 0)

    def release(self) -> None:
        """Give the lock back; again and again if you like."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _describe(content: bytes) -> str:
    try:
        about = json.loads(content)
        return f"another run (host {about['host']}, pid {about['pid']}, started {about['started']})"
    except (ValueError, KeyError, TypeError):
        return "another run"  # it has the lock, but has not yet written who it is
