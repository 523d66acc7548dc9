"""Parts of remote files on a local disk: bounded, the least recently used go first, shared by all processes of a node.

fsspec's own caches are not bounded and keep no checksums, and diskcache has not been released since 2023.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.options.fields import OptionError
from utils.storage.files import is_abandoned, located

FULL = 0.9
"""Of the size is kept when room is made, and the most that one content may take."""

_LOCKS = 256


class Cache:
    """Files by key, each written aside and renamed, so that a kill or two writers leave no half of one.

    `total` holds the bytes that all processes have put, under a lock of its own; it is counted anew at the start and
    whenever room is made, so that a kill between two steps does no lasting harm.

    Args:
        folder: on a local disk; made if need be.
        size: bytes that are never passed.

    Raises:
        OptionError: the folder cannot be made or written.
    """

    def __init__(self, folder: str, size: int) -> None:
        self.folder, self.size = located(folder), size
        try:
            (self.folder / "locks").mkdir(parents=True, exist_ok=True)
            with self.lock("total"):
                self._make_room(0)
        except OSError as error:
            raise OptionError(f"cache: cannot use the folder {self.folder} ({error.strerror})") from error

    def get(self, key: str, check: Callable[[bytes], str | None]) -> bytes | None:
        """Return a content, or None where it is missing or damaged."""
        path = self._path(key)
        try:
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            return None  # also where another process has just made room
        if check(content) is None:
            return content
        path.unlink(missing_ok=True)
        return None

    def put(self, key: str, content: bytes) -> None:
        """Keep a content, if it fits. A disk that refuses is warned of: the cache is a help, not a need."""
        if len(content) > FULL * self.size:
            return
        path = self._path(key)
        aside = path.with_name(f".{uuid.uuid4().hex}")
        try:
            with self.lock("total"):
                total = self._total() + len(content)
                self._set_total(total if total <= self.size else self._make_room(len(content)) + len(content))
            path.parent.mkdir(exist_ok=True)
            aside.write_bytes(content)
            aside.replace(path)
        except OSError as error:
            with suppress(OSError):
                aside.unlink()
            warnings.warn(
                f"{self.folder}: the cache cannot be written ({error.strerror}); reading goes on", stacklevel=2
            )

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold one of the locks of this node; it ends with the process that has it."""
        file = name if name == "total" else str(int(_digest(name)[:8], 16) % _LOCKS)
        descriptor = os.open(self.folder / "locks" / file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # of the opened file, so also between threads
            yield
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a worker that was forked meanwhile has the file open, too
            os.close(descriptor)

    def _path(self, key: str) -> Path:
        name = _digest(key)
        return self.folder / name[:2] / name

    def _total(self) -> int:
        try:
            return int((self.folder / "total").read_text())
        except (OSError, ValueError):
            return self._make_room(0)

    def _set_total(self, total: int) -> None:
        (self.folder / "total").write_text(str(total))

    def _make_room(self, wanted: int) -> int:
        """Count what is there; if it and `wanted` bytes are too many, remove the oldest. Returns the bytes left."""
        files = list[tuple[float, int, str]]()
        for folder in self.folder.glob("??"):
            for entry in os.scandir(folder):
                with suppress(FileNotFoundError):
                    about = entry.stat()
                    if entry.name.startswith(".") and is_abandoned(about):
                        os.unlink(entry.path)
                    else:
                        files.append((about.st_mtime, about.st_size, entry.path))
        total = sum(size for _, size, _ in files)
        if total + wanted > self.size:
            for _, size, path in sorted(files):
                if total + wanted <= FULL * self.size:
                    break
                with suppress(FileNotFoundError):
                    os.unlink(path)
                total -= size
        self._set_total(total)
        return total


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
