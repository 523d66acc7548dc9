"""Reading LMDB databases: once per process, without locks, and never beyond the end of a file that was cut off."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import lmdb


def reader(folder: str | Path) -> Reader:
    """Return this process's one reader of a database: LMDB refuses to open it twice, and two sources may share it."""
    return _reader(os.path.realpath(folder))


@cache
def _reader(folder: str) -> Reader:
    return Reader(folder)


class Reader:
    """A database open for reading, by each process for itself and only once it reads.

    Without a lock file, so that read-only disks and network folders serve; the price is that nobody may write
    meanwhile. Without read-ahead, since samples come in random order.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._owner = 0
        self._opened: lmdb.Environment | None = None

    def _environment(self) -> lmdb.Environment:
        if self._opened is not None and self._owner != os.getpid():
            self._opened.close()  # a fork's copy: closes this process's mapping alone, and LMDB may open it anew
            self._opened = None
        if self._opened is None:
            environment = lmdb.open(self.folder, readonly=True, lock=False, readahead=False, meminit=False)
            refuse_cut_off(environment, Path(self.folder))
            self._opened, self._owner = environment, os.getpid()
        return self._opened

    def get(self, key: str) -> bytes | None:
        """Return the value of a key, or None."""
        with self._environment().begin() as transaction:
            return transaction.get(key.encode())

    def keys(self) -> list[str]:
        """Return all keys, sorted."""
        with self._environment().begin() as transaction, transaction.cursor() as cursor:
            return sorted(key.decode() for key in cursor.iternext(values=False))

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Return those of the keys that the database has not."""
        with self._environment().begin() as transaction, transaction.cursor() as cursor:
            return [key for key in keys if not cursor.set_key(key.encode())]


def refuse_cut_off(environment: lmdb.Environment, folder: Path) -> None:
    """Close and raise OSError for a database whose file lacks pages: to touch those would kill the process."""
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    size = (folder / "data.mdb").stat().st_size
    if size < needed:
        environment.close()
        raise OSError(f"data.mdb has {size} of at least {needed} bytes, so it is cut off; copy it again")
