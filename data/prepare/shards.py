"""Folders of images to tar files with indices, for `type: shards`; and indices for tars of others."""

from __future__ import annotations

import hashlib
import io
import json
import math
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data.prepare.tiles import Tiles
from data.prepare.work import named_images, parallel, refuse_inside, stamp
from data.shard_index import MANIFEST, NO_IMAGE, TarIndex, index_name, joined, scan, write_manifest
from data.sources.paired import pairs_by_name
from utils.images.files import ImageError, encode_image, read_header, read_picture
from utils.images.header import parse_header
from utils.logging import Console, counted, first_few
from utils.options.fields import OptionError
from utils.storage.files import located
from utils.storage.places import Place, is_url

_BYTES_PER_PIXEL = 1.5  # of the PNG of a photograph, about
_SHOWN = 10


@dataclass(frozen=True)
class Entry:
    """Files that go into one tar together, with the names of their members, and how many bytes they take, about."""

    files: tuple[tuple[str, Path], ...]
    bytes: float


@dataclass(frozen=True)
class Shard:
    """A tar to be made, and what tells its files from others."""

    tar: str
    entries: tuple[Entry, ...]
    made_of: str


def make_shards(
    source: Path,
    lq: Path | None,
    out: str,
    size: int,
    tile: int | None,
    part: tuple[int, int],
    workers: int,
    console: Console,
) -> int:
    """Write the images of a folder, or of two that pair, into tars of about `size` bytes, with an index each.

    Files are kept as they are; with `tile`, images are cut into PNGs of so many pixels a side. What goes into which tar
    follows from the list of files alone, so several machines may each make a `part` (k, n) of the tars. A tar whose
    index is there, made of the same files, is kept. Whoever finds the tars complete writes the manifest.

    Returns:
        How many images could not be used; each is named on the console.

    Raises:
        OptionError: there are no images, names clash, or images do not pair.
        OSError: the disk or the store refuses, or a worker died.
    """
    if not is_url(out):
        refuse_inside(Path(out), source)
    place = Place(out)
    shards = plan(entries(source, lq, tile, console), size, tile)
    indices = _made_before(place, shards)
    mine = [shard for number, shard in enumerate(shards) if number % part[1] == part[0] - 1]
    todo = [shard for shard in mine if shard.tar not in indices]
    with console.progress(len(mine), initial=len(mine) - len(todo), desc="shards") as progress:
        for shard, content in parallel(partial(write_shard, out, tile), todo, workers):
            indices[shard.tar] = content
            progress.update()
    made = [TarIndex.from_json(indices[shard.tar]) for shard in mine]
    left_out = [(name, reason) for index in made for name, reason in index.left_out]
    for name, reason in left_out:
        console.error(f"left out: {name}: {reason}")
    console.info(
        f"{out}: {len(made)} tars, {len(made) - len(todo)} of them from before, "
        f"{sum(len(index.names) for index in made)} images, {len(left_out)} unusable"
    )
    indices |= _made_before(place, [shard for shard in shards if shard.tar not in indices])  # by others, meanwhile
    missing = [shard.tar for shard in shards if shard.tar not in indices]
    if missing:
        console.info(f"{len(missing)} of {len(shards)} tars are missing ({missing[0]} ...); the last part ends the set")
    else:
        finish(place, {shard.tar: indices[shard.tar] for shard in shards}, console)
    return len(left_out)


def _made_before(place: Place, shards: Sequence[Shard]) -> dict[str, bytes]:
    """Return the indices of those tars that are there, made of the same files."""
    there, found = place.names() if shards else {}, dict[str, bytes]()
    for shard in shards:
        if index_name(shard.tar) in there and shard.tar in there:
            content = place.read(index_name(shard.tar))
            if (index := _sound(content)) is not None and index.made_of == shard.made_of:
                found[shard.tar] = content
    return found


def _sound(content: bytes) -> TarIndex | None:
    """Read an index that was made before; None for a damaged one, which is made anew."""
    try:
        return TarIndex.from_json(content)
    except ValueError:
        return None


def finish(place: Place, indices: dict[str, bytes], console: Console, tars: str | None = None) -> None:
    """Write the manifest, and say what the set asks of a network and a cache."""
    write_manifest(place, indices, tars)
    whole = joined(place, [TarIndex.from_json(content) for content in indices.values()])
    total, count = int(whole.length.sum()), len(whole)
    console.info(f"{place.at(MANIFEST)}: {len(indices)} tars, {count} images, {total / 1e9:.3g} GB")
    shares = [f"{hits(f):.0%} with {f * total / 1e9:.3g} GB" for f in (0.5, 0.75, 0.9, 1.0)]
    console.info(
        f"training at n images a second reads n * {total / count / 1e6:.3g} MB/s; from the second epoch on, a cache of "
        f"a share f of the set spares f + (1 - f) ln(1 - f) of it: {', '.join(shares)}"
    )


def hits(share: float) -> float:
    """Return how much of the reads a cache spares that holds a share of a set, from the second epoch on.

    An image that came at the time u of an epoch and comes at v of the next has seen 1 - u v' (v' = 1 - v) of the others
    in between, since orders are independent; it is still there if that is at most `share` = f. Integrated over both:
    f + (1 - f) ln(1 - f).
    """
    return 1.0 if share >= 1 else share + (1 - share) * math.log(1 - share)


# --- what goes where -------------------------------------------------------------------------------------------------


def entries(source: Path, lq: Path | None, tile: int | None, console: Console) -> list[Entry]:
    """Return the files in the order in which `type: folder` (of the tiles) or `paired` has them."""
    if lq is not None:
        pairs, problems, _ = pairs_by_name(source, lq, None, "{}")
        if problems:
            shown = first_few(problems, _SHOWN, "\n  ")
            raise OptionError(f"{len(problems)} of the images do not pair:\n  {shown}")
        return [
            _entry(tuple((f"{_stem(gt, source)}.{p}{f.suffix}", f) for p, f in (("gt", gt), ("lq", low))))
            for gt, low in pairs
        ]
    named = named_images(source, console=console)
    if tile is None:
        return [_entry(((path.relative_to(source).as_posix(), path),)) for path in named.values()]
    in_order = sorted(named.items(), key=lambda item: Path(f"{item[0]}_s"))
    return [Entry(((name, path),), _tiled_bytes(path)) for name, path in in_order]


def _stem(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()


def _entry(files: tuple[tuple[str, Path], ...]) -> Entry:
    return Entry(files, sum(stamp(path)[0] for _, path in files))


def _tiled_bytes(path: Path) -> float:
    try:
        height, width = read_header(path).size or (0, 0)
    except ImageError:
        return 0
    return height * width * _BYTES_PER_PIXEL


def plan(listed: Sequence[Entry], size: int, tile: int | None) -> list[Shard]:
    """Share entries out among tars of about `size` bytes, in order."""
    groups: list[list[Entry]] = [[]]
    filled = 0.0
    for entry in listed:
        if groups[-1] and filled + entry.bytes > size:
            groups.append([])
            filled = 0.0
        groups[-1].append(entry)
        filled += entry.bytes
    return [Shard(f"{number:06d}.tar", tuple(group), _digest(group, tile)) for number, group in enumerate(groups)]


def _digest(group: Sequence[Entry], tile: int | None) -> str:
    files = [(name, stamp(path)) for entry in group for name, path in entry.files]
    return hashlib.sha256(json.dumps([tile, files]).encode(errors="surrogateescape")).hexdigest()


# --- one tar ---------------------------------------------------------------------------------------------------------


def write_shard(out: str, tile: int | None, shard: Shard) -> bytes:
    """Make a tar aside, read it back for its index, and put both in place, the index last. Returns the index."""
    place, left_out = Place(out), list[tuple[str, str]]()
    with tempfile.TemporaryDirectory(prefix="shards-") as folder:
        path = Path(folder) / shard.tar
        with tarfile.open(path, "w") as tar:
            for entry in shard.entries:
                try:
                    members = list(_members(entry, tile))
                except ImageError as error:  # of a pair, both are left out
                    left_out.append((entry.files[0][0], str(error)))
                    continue
                for name, content in members:
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
        with path.open("rb") as opened:
            index = scan(shard.tar, opened, path.stat().st_size, shard.made_of)
        index.left_out += left_out
        place.upload(path, shard.tar)
        place.write(index_name(shard.tar), content := index.to_json())
    return content


def _members(entry: Entry, tile: int | None) -> Iterator[tuple[str, bytes]]:
    for name, path in entry.files:
        if tile is None:
            try:
                content = path.read_bytes()
            except OSError as error:
                raise ImageError(f"cannot be read ({error.strerror})") from error
            if (damage := parse_header(content).damage) is not None:
                raise ImageError(damage)
            yield name, content
        else:
            picture = read_picture(path).srgb()
            image = picture.pixels[..., 0] if picture.gray else picture.pixels
            for suffix, part in Tiles(tile, tile).outputs(image):
                yield f"{name}{suffix}.png", encode_image(f"{name}.png", np.ascontiguousarray(part))


# --- tars of others --------------------------------------------------------------------------------------------------


def index_tars(root: str, out: str | None, workers: int, console: Console) -> int:
    """Read tars from beginning to end, once, and write their indices and the manifest beside them, or into `out`.

    Returns:
        How many members could not be used; each is named on the console, but for those that are no images by name.

    Raises:
        OptionError: there are no tars, or one is none.
    """
    place, target = Place(root), Place(out or root)
    tars = {name: size for name, size in sorted(place.names().items()) if name.endswith(".tar")}
    if not tars:
        raise OptionError(f"{root}: there are no files called *.tar")
    there, indices, failed = target.names(), dict[str, bytes](), 0
    for tar, size in tars.items():
        if index_name(tar) in there:
            index = _sound(content := target.read(index_name(tar)))
            if index is not None and index.bytes == size:
                indices[tar] = content
    todo = [(tar, size) for tar, size in tars.items() if tar not in indices]
    with console.progress(len(tars), initial=len(indices), desc="index") as progress:
        for (tar, _), content in parallel(partial(_scan, root), todo, workers):
            target.write(index_name(tar), content)
            indices[tar] = content
            progress.update()
    for tar in tars:
        left_out = TarIndex.from_json(indices[tar]).left_out
        for name, reason in left_out:
            if reason != NO_IMAGE:
                failed += 1
                console.error(f"left out: {tar}/{name}: {reason}")
        if left_out:
            console.info(f"{tar}: {counted(len(left_out), 'member is', 'members are')} left out")
    where = root if is_url(root) else str(located(root).resolve())
    finish(target, {tar: indices[tar] for tar in tars}, console, where if out else None)
    return failed


def _scan(root: str, item: tuple[str, int]) -> bytes:
    tar, size = item
    with Place(root).stream(tar, size) as opened:
        return scan(tar, opened, size).to_json()
