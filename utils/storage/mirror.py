"""A run folder's copy in object storage: sent after each save, brought back before a run goes on."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from utils.storage.checkpoint import find_damage
from utils.storage.places import Place

_MANIFEST = "manifest.json"
_OWN = "run.lock"  # says who holds it on this machine


class Mirror:
    """The files of a run folder, but for hidden ones and the lock, kept alike at a place.

    The manifest of a checkpoint is the last of its files to be sent and the first to be removed, and its hashes tell
    whether the others are those it was saved with. A place that refuses is only warned of: the next call sends what is
    missing, and the run's folder has it all.

    Args:
        warn: takes messages about what could not be sent or brought.
    """

    def __init__(self, folder: Path, place: Place, warn: Callable[[str], None]) -> None:
        self.folder, self.place, self.warn = folder, place, warn
        self._sent: dict[str, tuple[int, int]] = {}

    def fetch(self) -> list[str]:
        """Bring the checkpoints that are whole there and not here, and then all other files, since they are newer.

        Returns:
            The names of the checkpoints.

        Raises:
            PlaceError: the place cannot be read.
        """
        there = dict(sorted(self.place.names().items()))
        saves = [name.split("/")[1] for name in there if name.startswith("checkpoints/") and name.endswith(_MANIFEST)]
        brought = [save for save in saves if self._fetch_checkpoint(save, there)]
        if brought:
            for name in there:
                if not name.startswith("checkpoints/") or name.count("/") == 1:
                    self._fetch_file(name, self.folder / name)
                    self._sent[name] = _stamp(self.folder / name)
        return brought

    def _fetch_checkpoint(self, save: str, there: Mapping[str, int]) -> bool:
        """Bring a checkpoint that is not here, and return whether it is whole. Of one that is, note what is there."""
        target, names = self.folder / "checkpoints" / save, [n for n in there if n.startswith(f"checkpoints/{save}/")]
        if target.exists():
            manifest = target / _MANIFEST
            if manifest.is_file() and self.place.read(f"checkpoints/{save}/{_MANIFEST}") == manifest.read_bytes():
                here = {f"checkpoints/{save}/{path.name}": _stamp(path) for path in target.iterdir()}
                self._sent |= {name: stamp for name, stamp in here.items() if there.get(name) == stamp[0]}
            return False
        aside = target.with_name(f".tmp-{uuid.uuid4().hex}")
        try:
            for name in names:
                self._fetch_file(name, aside / name.rpartition("/")[2])
            if (problem := find_damage(aside)) is not None:
                self.warn(f"{self.place.at(f'checkpoints/{save}')} is passed over: {problem}")
                return False
            aside.rename(target)
            self._sent |= {f"checkpoints/{save}/{path.name}": _stamp(path) for path in target.iterdir()}
            return True
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _fetch_file(self, name: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.place.download(name, path)

    def push(self) -> None:
        """Send what is new or has changed, and remove what was sent and is no longer here."""
        here = {
            path.relative_to(self.folder).as_posix(): path
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and path.name != _OWN and "/." not in f"/{path.relative_to(self.folder).as_posix()}"
        }
        try:
            for name in sorted(self._sent.keys() - here.keys(), key=lambda name: not name.endswith(_MANIFEST)):
                self._remove(name)
            for name, path in sorted(here.items(), key=lambda item: item[0].endswith((_MANIFEST, "/latest"))):
                stamp = _stamp(path)
                if self._sent.get(name) != stamp:
                    self.place.upload(path, name)
                    self._sent[name] = stamp
        except OSError as error:
            self.warn(f"not everything was sent to {self.place}, which the next save tries again: {error}")

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            self.place.remove(name)
        del self._sent[name]


def _stamp(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_size, about.st_mtime_ns
