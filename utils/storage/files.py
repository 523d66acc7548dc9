"""Writing files so that a kill or a power cut leaves either the old content or the new one, never half of it; and
reading texts and paths that were written on Windows, and arrays that are damaged."""

import codecs
import os
import time
import zlib
from pathlib import Path
from tokenize import TokenError
from zipfile import BadZipFile

DAMAGED_ARRAY = (EOFError, ValueError, TypeError, SyntaxError, TokenError, BadZipFile, zlib.error)
"""What NumPy raises for a damaged .npy or .npz, besides OSError. It reads a header as Python and tells what it stumbled
over: hence SyntaxError and TokenError."""

_MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_text(path: Path) -> str:
    """Return a text in UTF-8, or in what a byte-order mark says: PowerShell's `>` writes UTF-16, Notepad marks UTF-8.

    Raises OSError, or UnicodeDecodeError for what is no text.
    """
    content = path.read_bytes()
    return content.decode(next((name for mark, name in _MARKS.items() if content.startswith(mark)), "utf-8"))


def located(path: str, below: Path = Path()) -> Path:
    """Return a path relative to a folder; `~` is the home folder. Where nothing lies at a path with backslashes, they
    are taken for slashes, as Windows means them."""
    found = below / Path(path).expanduser()
    return found if "\\" not in path or found.exists() else below / Path(path.replace("\\", "/")).expanduser()


def looked_in(path: str | Path) -> str:
    """Return words on where a path was looked for that is not there; none for an absolute one, which says it itself."""
    return "" if Path(path).expanduser().is_absolute() else f" in {Path.cwd()}, where relative paths start"


def write_durably(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def is_abandoned(about: os.stat_result) -> bool:
    """Tell whether a file that is written aside is one of a process that was killed: untouched for an hour."""
    return about.st_mtime < time.time() - 3600


def sync_folder(folder: Path) -> None:
    """Wait until the disk has a folder's entries (names that were created, renamed or removed)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_text(path: Path, text: str) -> None:
    """Replace the text of a file in one step. Of file names, bytes that are no text become such as \\udce9."""
    replace_bytes(path, text.encode("utf-8", "backslashreplace"))


def replace_bytes(path: Path, content: bytes) -> None:
    """Replace a file in one step."""
    aside = path.with_name(f".tmp-{path.name}")
    try:
        write_durably(aside, content)
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
