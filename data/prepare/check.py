"""What is in a folder of images, and which of them had better not be trained on."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.prepare.work import Record, parallel, stamp, tell
from data.sources.folder import listable
from utils.images.files import ImageError, decode_image, list_images, read_bytes
from utils.images.header import parse_header
from utils.logging import Console, table
from utils.options.fields import OptionError
from utils.storage.files import replace_text

_QUANTILES = {"smallest": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "largest": 1.0}


@dataclass(frozen=True)
class Facts:
    """What is known of a file: (height, width), mode, bits per channel, a hash of its pixels; or why it is bad.

    `kind` is `good`, `truncated` or `unreadable`.
    """

    kind: str
    stamp: list[int]
    reason: str = ""
    size: tuple[int, int] = (0, 0)
    mode: str = ""
    bits: int = 0
    digest: str = ""


def check(sources: Sequence[Path], out: Path | None, min_size: int, workers: int, console: Console) -> int:
    """Read all images, print tables, name what is bad, and write the list of the good ones.

    Bad are files that cannot be read or are cut off, images with a side under `min_size`, and all but the first of
    those with equal pixels, in whatever formats. With `out`, a check that was stopped goes on.

    Returns:
        How many files, or of several folders how many folders, could not be read.

    Raises:
        OptionError: the only folder is missing, there are no images, or `out` is given with several.
    """
    if out is not None and len(sources) > 1:
        raise OptionError(f"--out takes one folder, found {len(sources)}: `names:` lists images of one root")
    files: list[Path] = []
    missing = 0
    for source in sources:
        try:
            listing = list_images(source)
        except OSError as error:
            if len(sources) == 1:
                raise OptionError(str(error)) from error
            console.error(str(error))
            missing += 1
            continue
        files += listing.files
        tell(listing, console)
    if not files:
        raise OptionError(f"there are no images in {', '.join(map(str, sources))}")
    facts_of = _facts(files, out, sources, workers, console)
    bad = _bad(facts_of, min_size)
    for kind, reason in bad.values():
        (console.error if kind in ("unreadable", "truncated") else console.info)(f"{kind}: {reason}")
    _report(facts_of, bad, console)
    if out is not None:
        good = [path.relative_to(sources[0]).as_posix() for path in files if path not in bad]
        for name in (n for n in good if not listable(n)):
            console.warn(f"{name!r} cannot stand in a list; rename it")
        good = [name for name in good if listable(name)]
        replace_text(out, "".join(f"{name}\n" for name in good))
        _partial(out).unlink(missing_ok=True)
        console.info(f"{out}: {len(good)} good images; use it as  {{type: folder, root: {sources[0]}, names: {out}}}")
    return missing + sum(kind in ("unreadable", "truncated") for kind, _ in bad.values())


def _partial(out: Path) -> Path:
    return out.with_name(f".{out.name}.partial.jsonl")


def _facts(
    files: list[Path], out: Path | None, sources: Sequence[Path], workers: int, console: Console
) -> dict[Path, Facts]:
    facts_of: dict[Path, Facts] = {}
    record = None if out is None else Record(_partial(out), {"kind": "check", "root": str(sources[0].resolve())})
    for path in files:
        if record is not None and (entry := record.done(str(path), path)) is not None:
            facts_of[path] = Facts(**{**entry["facts"], "size": tuple(entry["facts"]["size"])})
    todo = [path for path in files if path not in facts_of]
    with console.progress(len(files), initial=len(facts_of), desc="check") as progress:
        for path, facts in parallel(examine, todo, workers):
            facts_of[path] = facts
            if record is not None:
                record.add(str(path), facts.stamp, facts=asdict(facts))
            progress.update()
    if record is not None:
        record.close()
    return {path: facts_of[path] for path in files}


def examine(path: Path) -> Facts:
    """Read and decode a file."""
    before = stamp(path)
    try:
        data = read_bytes(path)
        image = decode_image(data, path)
    except ImageError as error:
        reason = str(error).removeprefix(str(path))
        cut = "cut off" in reason or "is empty" in reason
        return Facts("truncated" if cut else "unreadable", before, str(error))
    header = parse_header(data)
    digest = hashlib.sha256(repr((image.shape, image.dtype.str)).encode())
    digest.update(image.tobytes())
    size, bits = (image.shape[0], image.shape[1]), header.highest.bit_length()
    return Facts("good", before, "", size, header.mode, bits, digest.hexdigest())


def _bad(facts_of: Mapping[Path, Facts], min_size: int) -> dict[Path, tuple[str, str]]:
    """Return kind and reason of every file that is not good, in order."""
    bad: dict[Path, tuple[str, str]] = {}
    first: dict[str, Path] = {}
    for path, facts in facts_of.items():
        height, width = facts.size
        if facts.kind != "good":
            bad[path] = facts.kind, facts.reason
        elif min(facts.size) < min_size:
            bad[path] = "tiny", f"{path}: {height}x{width} has a side under {min_size}"
        elif facts.digest in first:
            bad[path] = "duplicate", f"{path}: has the pixels of {first[facts.digest]}"
        else:
            first[facts.digest] = path
    return bad


def _report(facts_of: Mapping[Path, Facts], bad: Mapping[Path, tuple[str, str]], console: Console) -> None:
    readable = [facts for facts in facts_of.values() if facts.kind == "good"]
    if readable:
        sides = np.array([facts.size for facts in readable])
        numbers = {"height": sides[:, 0], "width": sides[:, 1], "shorter side": sides.min(axis=1)}
        values = {name: [f"{np.quantile(v, q):.0f}" for q in _QUANTILES.values()] for name, v in numbers.items()}
        values["megapixels"] = [f"{np.quantile(sides.prod(axis=1) / 1e6, q):.3g}" for q in _QUANTILES.values()]
        console.info(table(["size", *_QUANTILES], [[name, *row] for name, row in values.items()]) + "\n")
        kinds = Counter((facts.mode, facts.bits) for facts in readable).most_common()
        rows: list[list[Any]] = [[mode, bits, count] for (mode, bits), count in kinds]
        console.info(table(["mode", "bits per channel", "images"], rows) + "\n")
    counts = Counter(kind for kind, _ in bad.values())
    summary = ["good", "unreadable", "truncated", "tiny", "duplicate"]
    counts["good"] = len(facts_of) - len(bad)
    console.info(table(["files", "count"], [[kind, counts[kind]] for kind in summary] + [["all", len(facts_of)]]))
