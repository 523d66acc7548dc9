"""A folder of images, or a database of the BasicSR of 2019, to an LMDB database in BasicSR's layout, which `type: lmdb`
reads."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from data.prepare.work import Failure, Record, named_images, parallel, stamp
from data.sources.lmdb import META, OLD_META, parse_meta
from utils.images.files import ImageError, encode_image, read_image_alpha
from utils.images.header import parse_header
from utils.logging import Console, first_few
from utils.options.fields import OptionError
from utils.storage.files import replace_text
from utils.storage.lmdb_reader import reader, refuse_cut_off
from utils.storage.lock import RunLock

RECORD = "prepared.jsonl"
_BATCH_IMAGES, _BATCH_BYTES = 64, 2**25  # written in one transaction, so lost at most by a kill
_MAP_BYTES = 2**26  # to begin with; doubled whenever it is full
_SHOWN = 10


@dataclass(frozen=True)
class Encoded:
    """The PNG of one image, (height, width, channels), and the stamp of its file before it was read."""

    value: bytes
    shape: tuple[int, int, int]
    stamp: list[int]


def write_database(source: Path, out: Path, strip: str, workers: int, console: Console) -> int:
    """Write all images of a folder, or of an old database, into a database; goes on where an earlier call was stopped.

    What is there already is kept if its file has not changed and its PNG is whole and of the recorded size. Gray
    images stay gray (one channel), colours become sRGB, alpha is dropped, the depth stays. The list is written at the
    end: a folder without it is unfinished.

    Returns:
        How many images could not be used; each is named on the console.

    Raises:
        OptionError: there are no images, names clash or cannot be keys, or `out` holds images of another folder.
        OSError: the disk refuses, or a worker died.
    """
    if (source / OLD_META).is_file():
        try:
            return _convert_old(source, out, console)
        except lmdb.Error as error:
            raise OSError(f"{source} to {out}: {error}") from error
    names = named_images(source, strip, console)
    for name, path in names.items():
        try:
            fits = parse_meta(f"{name}.png (1,1,3) 1").key == name
        except ValueError:
            fits = False
        if not fits or len(name.splitlines()) != 1:
            raise OptionError(f"{path}: its name cannot be a key; keys have up to 511 bytes and stand in one line")
    with RunLock(out), Record(out / RECORD, {"kind": "lmdb", "strip": strip}) as record:
        try:
            with _Writer(out) as writer:
                writer.refuse_others(set(names))
                kept = {name for name, path in names.items() if _kept(record.done(name, path), writer.get(name))}
                if len(kept) < len(names):
                    (out / META).unlink(missing_ok=True)
                failed = _write(writer, record, names, kept, workers, console)
        except lmdb.Error as error:
            raise OSError(f"{out}: {error}") from error
        done = {name: record.entries[name]["shape"] for name in names if name in kept or name in writer.written}
        lines = [f"{name}.png ({height},{width},{channels}) 1\n" for name, (height, width, channels) in done.items()]
        replace_text(out / META, "".join(lines))
    console.info(f"{out}: {len(done)} images, {len(kept)} of them from before, {failed} unusable")
    return failed


def _convert_old(source: Path, out: Path, console: Console) -> int:
    """Do as `write_database`, from a database whose values are the bytes of 8-bit BGR or gray pixels, row by row, with
    keys and shapes in a pickle."""
    shapes, old, failed = old_meta(source / OLD_META), reader(source), 0
    sizes, batch = dict[str, tuple[int, int, int]](), dict[str, bytes]()
    with RunLock(out), _Writer(out) as writer, console.progress(len(shapes), desc="lmdb") as progress:
        writer.refuse_others(set(shapes))
        for key, (height, width, channels) in shapes.items():
            pixels, there = old.get(key), writer.get(key)
            if pixels is None or len(pixels) != height * width * channels:
                console.error(f"left out: {source}, key {key!r}: has not the {height}x{width}x{channels} bytes listed")
                failed += 1
                continue
            if there is None or parse_header(there).damage is not None:
                bgr = np.frombuffer(pixels, np.uint8).reshape(height, width, channels)
                image = bgr[..., 0] if channels == 1 else bgr[..., ::-1]
                batch[key] = encode_image(f"{key}.png", np.ascontiguousarray(image))
            if len(batch) >= _BATCH_IMAGES:
                writer.put(batch)
                batch.clear()
            sizes[key] = (height, width, channels)
            progress.update()
        writer.put(batch)
        lines = [f"{key}.png ({height},{width},{channels}) 1\n" for key, (height, width, channels) in sizes.items()]
        replace_text(out / META, "".join(lines))
    console.info(f"{out}: {len(sizes)} images, {failed} unusable")
    return failed


class _NoCode(pickle.Unpickler):
    """Reads texts, numbers, lists and mappings. Whatever names a class or a function, and so could run, is refused."""

    def find_class(self, module_name: str, global_name: str) -> Any:  # noqa: ANN401
        raise pickle.UnpicklingError(f"it names {module_name}.{global_name}; expected texts and numbers alone")


def old_meta(file: Path) -> dict[str, tuple[int, int, int]]:
    """Return (height, width, channels) by key of a meta_info.pkl: `keys`, and `resolution`, texts `C_H_W`, one of each
    key or one of all. Nothing in the pickle is run. Raises OptionError for one that holds something else."""
    try:
        with file.open("rb") as opened:
            found = _NoCode(opened).load()
        keys, texts = found["keys"], found["resolution"]
        shapes = [tuple(map(int, text.split("_"))) for text in (texts * len(keys) if len(texts) == 1 else texts)]
        usable = {str(k): (h, w, c) for k, (c, h, w) in zip(keys, shapes, strict=True)}
        strange = [k for k, (h, w, c) in usable.items() if parse_meta(f"{k}.png ({h},{w},{c}) 1").key != k]
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise OptionError(
            f"{file}: is no list of keys and resolutions as BasicSR wrote it in 2019 ({error})"
        ) from error
    strange += [k for k, (height, width, channels) in usable.items() if channels not in (1, 3) or height * width < 1]
    if strange or not usable:
        raise OptionError(f"{file}: expected keys of images of 1 or 3 channels; found {strange[:_SHOWN] or 'none'}")
    return usable


def _kept(entry: dict[str, Any] | None, value: bytes | None) -> bool:
    if entry is None or value is None:
        return False
    header = parse_header(value)  # walks the whole PNG, checksums included
    return header.damage is None and header.size == tuple(entry["shape"][:2])


def _write(
    writer: _Writer, record: Record, names: dict[str, Path], kept: set[str], workers: int, console: Console
) -> int:
    todo = [(name, path) for name, path in names.items() if name not in kept]
    failed, batch = 0, dict[str, Encoded]()

    def commit() -> None:
        writer.put({name: encoded.value for name, encoded in batch.items()})
        for name, encoded in batch.items():  # only after the disk has the images
            record.add(name, encoded.stamp, shape=encoded.shape)
        batch.clear()

    with console.progress(len(names), initial=len(kept), desc="lmdb") as progress:
        for (name, _), result in parallel(_encode, todo, workers):
            if isinstance(result, Failure):
                failed += 1
                console.error(f"left out: {result.reason}")
                writer.remove(name)  # what was there is of an earlier file
            else:
                batch[name] = result
            if len(batch) >= _BATCH_IMAGES or sum(len(e.value) for e in batch.values()) >= _BATCH_BYTES:
                commit()
            progress.update()
        commit()
    return failed


def _encode(item: tuple[str, Path]) -> Encoded | Failure:
    name, path = item
    before = stamp(path)
    try:
        image, _, gray = read_image_alpha(path)
    except ImageError as error:
        return Failure(path, str(error))
    array = image[..., 0] if gray else image
    return Encoded(encode_image(f"{name}.png", array), (*image.shape[:2], 1 if gray else 3), before)  # type: ignore[arg-type]


class _Writer:
    """A database open for writing, which grows as needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written: set[str] = set()
        self.environment = lmdb.open(str(folder), map_size=_MAP_BYTES, readahead=False)
        refuse_cut_off(self.environment, folder)

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.environment.close()

    def refuse_others(self, names: set[str]) -> None:
        """Raise OptionError if the database has keys other than these names."""
        others = [key for key in self._keys() if key not in names]
        if others:
            shown = first_few(others, _SHOWN)
            raise OptionError(f"{self.folder} has {len(others)} images of another folder ({shown}); choose another")

    def _keys(self) -> Iterator[str]:
        with self.environment.begin() as transaction, transaction.cursor() as cursor:
            for key in cursor.iternext(keys=True, values=False):
                yield bytes(key).decode(errors="replace")

    def get(self, key: str) -> bytes | None:
        with self.environment.begin() as transaction:
            return transaction.get(key.encode())

    def put(self, values: dict[str, bytes]) -> None:
        """Write all of them, or none; returns when the disk has them."""

        def change(transaction: lmdb.Transaction) -> None:
            for key, value in values.items():
                transaction.put(key.encode(), value)

        self._change(change)
        self.written |= set(values)

    def remove(self, key: str) -> None:
        """Remove an image, if it is there."""
        self._change(lambda transaction: transaction.delete(key.encode()))

    def _change(self, change: Callable[[lmdb.Transaction], object]) -> None:
        while True:
            try:
                with self.environment.begin(write=True) as transaction:
                    change(transaction)
                return
            except lmdb.MapFullError:
                self.environment.set_mapsize(2 * self.environment.info()["map_size"])
