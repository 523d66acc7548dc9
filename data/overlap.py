"""Whether a run would be judged on what it learns from."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from data.source import Source

_SHOWN = 5
_CHUNK = 2**20


def overlap(train: Mapping[str, Source], validation: Mapping[str, Source], where: str = "data.train.") -> list[str]:
    """Return warnings for validation images that are among the training images, by the content of their files.

    Cheap: only files of equal size are read, each once. Sources whose images are not files of their own (`lmdb`)
    cannot be looked into, and copies in another format are not found; `python -m data.prepare check` finds those.

    Args:
        train, validation: sources by their names in the option file.
        where: the option path of `train`.

    Returns:
        A sentence for each pair of sources with common images, naming some of them.
    """
    by_size: dict[int, list[tuple[str, Path]]] = {}
    for name, source in validation.items():
        for path, size in _files(source):
            by_size.setdefault(size, []).append((name, path))
    hashes: dict[int, dict[bytes, list[tuple[str, Path]]]] = {}
    common: dict[tuple[str, str], dict[Path, Path]] = {}
    for name, source in train.items():
        for path, size in _files(source):
            if size not in by_size:
                continue
            if size not in hashes:
                hashes[size] = {}
                for held_out in by_size[size]:
                    hashes[size].setdefault(content_digest(held_out[1]), []).append(held_out)
            for valid, twin in hashes[size].get(content_digest(path), []):
                common.setdefault((valid, name), {})[twin] = path
    return [_sentence(valid, where + name, pairs, len(validation[valid])) for (valid, name), pairs in common.items()]


def _sentence(valid: str, train: str, pairs: dict[Path, Path], count: int) -> str:
    some = list(pairs.items())[:_SHOWN]
    shown = ", ".join(str(twin) if twin == path else f"{twin} = {path}" for twin, path in some)
    more = ", ..." if len(pairs) > _SHOWN else ""
    return (
        f"data.validation.{valid}: {len(pairs)} of its {count} images are also in {train}, "
        f"so its scores tell nothing about new images: {shown}{more}"
    )


def _files(source: Source) -> list[tuple[Path, int]]:
    files = []
    for path in map(source.path, range(len(source))):
        try:
            if path is not None:
                files.append((path, path.stat().st_size))
        except OSError:
            continue  # whoever reads it says so
    return files


def content_digest(path: Path) -> bytes:
    """Return what tells the content of a file from others; of an unreadable one, its path."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except OSError:
        return os.fsencode(path)  # equal to nothing; whoever reads it says so
    return digest.digest()
