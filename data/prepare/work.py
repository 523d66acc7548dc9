"""What the preparation commands share: parallel work that survives a kill, and the record by which they go on."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from utils.images.files import Listing, changes, headers, list_images
from utils.logging import Console, first_few
from utils.options.fields import OptionError

T = TypeVar("T")
R = TypeVar("R")
_WINDOW = 4  # tasks handed out per worker, so that results do not pile up


@dataclass(frozen=True)
class Failure:
    """A file that could not be used; `reason` names it."""

    path: Path
    reason: str


# --- what there is to do ---------------------------------------------------------------------------------------------


def named_images(root: Path, strip: str = "", console: Console | None = None) -> dict[str, Path]:
    """Return the images of a folder by name: the path inside it without ending, and without `strip` at its end.

    Tells the console which files are left out, and what is dropped of images or changed.

    Raises OptionError if there are no images, or two have one name.
    """
    try:
        listing = list_images(root)
    except OSError as error:
        raise OptionError(str(error)) from error
    if console is not None:
        tell(listing, console)
    named: dict[str, Path] = {}
    clashes = []
    for path in listing.files:
        name = path.relative_to(root).with_suffix("").as_posix()
        name = name.removesuffix(strip) if len(Path(name).name) > len(strip) else name
        if name in named:
            clashes.append(f"{named[name]} and {path}")
        named[name] = path
    if clashes:
        shown = first_few(clashes, between="; ")
        raise OptionError(f"{len(clashes)} pairs of files would get one name, rename one of each: {shown}")
    if not named:
        raise OptionError(f"{root}: there are no images")
    return named


def tell(listing: Listing, console: Console) -> None:
    """Say which files of a folder are left out, and what is dropped of its images or changed in them."""
    for remark in filter(None, [listing.remark, *changes(headers(listing.files))]):
        console.info(remark)


def refuse_inside(out: Path, source: Path) -> None:
    """Raise OptionError if results would become sources."""
    if out.resolve().is_relative_to(source.resolve()):
        raise OptionError(f"{out} lies in {source}: results would become sources; choose a folder elsewhere")


class Record:
    """Which sources are done, and what came out: a file of JSON lines beside the results.

    The first line holds the settings; a folder made with others is refused. Each further line is about one source:
    its name, its size and time of change, by which it is done again when it was replaced, and facts about the results.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Open or begin a record. Raises OptionError if it was begun with other settings."""
        self.path = path
        self.entries: dict[str, dict[str, Any]] = {}
        wanted = json.loads(json.dumps(settings))
        lines = self._lines()
        if lines and lines[0] != wanted:
            raise OptionError(f"{path.parent} was begun with {lines[0]}, now it is {wanted}; choose another --out")
        for line in lines[1:]:
            self.entries[line["name"]] = line
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        if not lines:
            self._write(wanted)

    def _lines(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:  # a kill left half a line
            os.truncate(self.path, len(whole))
        try:
            lines = [json.loads(line) for line in whole.decode().splitlines()]
            if all(isinstance(line, dict) for line in lines) and all("name" in line for line in lines[1:]):
                return lines
        except ValueError:
            pass
        raise OptionError(f"{self.path} is damaged; remove it and what lies beside it, or choose another --out")

    def done(self, name: str, source: Path) -> dict[str, Any] | None:
        """Return what came out of a source, if it is done and has not changed since."""
        entry = self.entries.get(name)
        return entry if entry is not None and entry["stamp"] == stamp(source) else None

    def add(self, name: str, stamped: Sequence[int], **facts: Any) -> None:  # noqa: ANN401
        """Enter a source as done; `stamped` is its stamp from before it was read."""
        self.entries[name] = {"name": name, "stamp": list(stamped), **facts}
        self._write(self.entries[name])

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file, which stays."""
        self._file.close()

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def stamp(path: Path) -> list[int]:
    """Return size and time of change: what tells that a file was replaced. Zeros if it is gone."""
    try:
        about = path.stat()
    except OSError:
        return [0, 0]  # whoever reads it says so
    return [about.st_size, about.st_mtime_ns]


# --- doing it --------------------------------------------------------------------------------------------------------


def parallel(function: Callable[[T], R], items: Sequence[T], workers: int) -> Iterator[tuple[T, R]]:
    """Apply a picklable function to all items in several processes; gives (item, result) as they are finished.

    With one worker it happens in this process, in order. What the function raises is raised here.

    Raises:
        OSError: a worker died, naming what was under way.
    """
    if workers <= 1:
        yield from ((item, function(item)) for item in items)
        return
    # A fork of this process would inherit its threads' locks; a server forked early, with the imports done, does not.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["data.prepare.work"])
    pool = ProcessPoolExecutor(min(workers, max(1, len(items))), context, initializer=_start_worker)
    under_way: dict[Future[R], T] = {}
    left = iter(items)
    try:
        while True:
            for item in left:
                under_way[pool.submit(function, item)] = item
                if len(under_way) >= _WINDOW * workers:
                    break
            if not under_way:
                return
            for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                result = future.result()
                yield under_way.pop(future), result
    except BrokenProcessPool as error:
        names = ", ".join(str(item) for item in under_way.values())
        raise OSError(f"a worker died (out of memory?); under way were: {names}; try fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def cores() -> int:
    """Return how many processes to work with: as many as this one may use cores, at most 16."""
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def _start_worker() -> None:
    torch.set_num_threads(1)  # the workers share the cores already
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent stops the workers
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """End this worker when the parent was killed: it would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
