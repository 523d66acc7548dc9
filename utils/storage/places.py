"""Folders on a disk or behind a URL that fsspec knows (s3://, gs://, https://): whole files and parts of them, read and
written with one rule of trying again."""

from __future__ import annotations

import io
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from utils.options.fields import OptionError
from utils.storage.files import located, replace_bytes, sync_folder

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

TRIES, FIRST_WAIT = 6, 0.1
"""Of a remote file; each wait is three times the one before, 12 s altogether."""

# Trying again is done here, where checksums and lengths are looked at too; the library's own layers would multiply it.
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {"config_kwargs": {"retries": {"total_max_attempts": 1}, "connect_timeout": 10, "read_timeout": 30}}
}
_BLOCK = 2**23  # bytes of a stream that are read at once
_IN_URLS = re.compile(r"(?<=://)[^/\s@]+@|\?[^\s'\")]+")


class PlaceError(OSError):
    """A file cannot be read or written. The message names it and the reason, without what a URL may hold in secrets."""


def is_url(root: str) -> bool:
    """Tell a URL from a path."""
    return "://" in root


class Place:
    """A folder that files are read from and written to by their names relative to it, with slashes.

    Each process opens it for itself, once it reads: it may be pickled, and used by several threads.

    Args:
        root: a folder, relative to the working directory or to `~`, or a URL.

    Raises:
        OptionError: a URL holds credentials, or the library for its kind is missing.
    """

    def __init__(self, root: str) -> None:
        self.remote = is_url(root)
        self.root = root.rstrip("/") if self.remote else str(located(root))
        self._owner, self._opened = 0, None
        if not self.remote:
            return
        parts = urlsplit(root)
        if "@" in parts.netloc or parts.query:
            raise OptionError(
                f"{without_secrets(root)}: found credentials in a URL, which would go into logs and checkpoints; leave "
                "them to the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, a role of the node)"
            )
        try:
            self._files()
        except (ImportError, ValueError) as error:
            raise OptionError(
                f"{root}: {error}; python -m pip install -e '.[cloud]' brings s3:// and https://"
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_owner": 0, "_opened": None}

    def __str__(self) -> str:
        return self.root

    def _files(self, anew: bool = False) -> AbstractFileSystem:
        """Return this process's file system: a fork must not use its parent's connections, and one that is opened anew
        asks for credentials again."""
        import fsspec  # only runs that have URLs, or tar files, pay for it

        if anew or self._opened is None or self._owner != os.getpid():
            protocol = self.root.partition("://")[0] if self.remote else "file"
            options = {**_OPTIONS.get(protocol, {}), "use_listings_cache": False, "skip_instance_cache": anew}
            self._opened = fsspec.filesystem(protocol, **options)  # which costs half a second for s3://
            self._opened.retries = 1  # s3fs has further ones besides its library's
            self._owner = os.getpid()
        return self._opened

    def at(self, name: str) -> str:
        """Return the whole path or URL of a file."""
        return f"{self.root}/{name}" if name else self.root

    def read(
        self, name: str, start: int = 0, end: int | None = None, check: Callable[[bytes], str | None] | None = None
    ) -> bytes:
        """Return a file, or its bytes from `start` up to `end`.

        Args:
            check: says what is wrong with the bytes, or None.

        Raises:
            FileNotFoundError: there is no such file.
            PlaceError: it could not be read whole, however often it was tried.
        """

        def attempt(files: AbstractFileSystem) -> bytes:
            given = {} if end is None else {"start": start, "end": end}
            content: Any = files.cat_file(self.at(name), **given)
            if end is not None and len(content) != end - start:
                ignored = "; the server ignores ranges" * (len(content) > end - start)
                raise PlaceError(f"{len(content)} of {end - start} bytes came{ignored}")
            if check is not None and (problem := check(content)) is not None:
                raise PlaceError(problem)
            return content

        return self._tried(name, "read", attempt)

    def stream(self, name: str, size: int) -> IO[bytes]:
        """Return a file of so many bytes, to be read from its beginning to its end, with the errors of `read`."""
        return io.BufferedReader(_Stream(self, name, size), _BLOCK)

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all. Raises PlaceError."""
        if self.remote:
            self._tried(name, "written", lambda files: files.pipe_file(self.at(name), content))
        else:
            path = Path(self.at(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_bytes(path, content)

    def upload(self, file: Path, name: str) -> None:
        """Copy a file of this machine here, whole or not at all. Raises PlaceError."""
        if self.remote:
            self._tried(name, "written", lambda files: files.put_file(str(file), self.at(name)))
            return
        path = Path(self.at(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".tmp-{path.name}")
        shutil.copyfile(file, aside)
        aside.replace(path)
        sync_folder(path.parent)

    def download(self, name: str, file: Path) -> None:
        """Copy a file from here to this machine. Raises FileNotFoundError or PlaceError; half of it may be there."""
        self._tried(name, "read", lambda files: files.get_file(self.at(name), str(file)))

    def names(self) -> dict[str, int]:
        """Return the files here at any depth, by their names, with their bytes. Raises PlaceError."""

        def attempt(files: AbstractFileSystem) -> dict[str, int]:
            found: Any = files.find(self.root, detail=True)
            top = str(files._strip_protocol(self.root)).rstrip("/")
            # Servers of https:// list names alone.
            sizes: dict[str, Any] = {
                path: files.size(path) if (size := about["size"]) is None else size for path, about in found.items()
            }
            return {path[len(top) + 1 :]: size for path, size in sizes.items()}

        return self._tried("", "listed", attempt)

    def remove(self, name: str) -> None:
        """Remove a file. Raises FileNotFoundError or PlaceError."""
        self._tried(name, "removed", lambda files: files.rm_file(self.at(name)))

    def _tried(self, name: str, what: str, attempt: Callable[[AbstractFileSystem], Any]) -> Any:  # noqa: ANN401
        tries, wait, said, refused = TRIES if self.remote else 1, FIRST_WAIT, "", False
        for left in reversed(range(tries)):
            try:
                return attempt(self._files(anew=refused))
            except FileNotFoundError as error:
                raise FileNotFoundError(error.errno, "there is no such file", self.at(name)) from None
            except Exception as error:  # noqa: BLE001 - libraries of object stores raise what they like
                refused = isinstance(error, PermissionError)
                said = without_secrets(" ".join(str(error).split())) or type(error).__name__
            if left:
                time.sleep(wait)
                wait *= 3
        after = f" after {tries} tries" if tries > 1 else ""
        raise PlaceError(f"{self.at(name)}: cannot be {what}{after} ({said})")


class _Stream(io.RawIOBase):
    def __init__(self, place: Place, name: str, size: int) -> None:
        self.place, self.file, self.size, self.position = place, name, size, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - a writable buffer, which has no name in Python 3.11
        end = min(self.size, self.position + len(buffer))
        content = self.place.read(self.file, self.position, end) if end > self.position else b""
        buffer[: len(content)] = content
        self.position = end
        return len(content)


def without_secrets(text: str) -> str:
    """Return a text without users, passwords and queries (signatures) of the URLs in it."""
    return _IN_URLS.sub("", text)
