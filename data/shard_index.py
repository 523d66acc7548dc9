"""What stands beside tar files so that any image in them is one range request away.

set/000000.tar        members as WebDataset writes them: NAME.png, or NAME.gt.png and NAME.lq.png
set/000000.tar.json   the index of a tar: columns of names, offsets, lengths, heights, widths and CRC-32s
set/manifest.json     the tars of the set, in order, with the checksum of each index; written last
"""

from __future__ import annotations

import json
import re
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from utils.images.files import change_kinds, is_image_name
from utils.images.header import parse_header
from utils.logging import counted, first_few
from utils.options.fields import OptionError
from utils.storage.places import Place, PlaceError

MANIFEST, VERSION = "manifest.json", 1
PARTNER = re.compile(r"(?P<key>.+)\.(?P<part>gt|lq)\.[^./]+")
NO_IMAGE = "not an image by its name"
"""Why a member is left out that nobody takes for an image."""
_NOT_IN_ONE_PIECE = "is a link, a device or a sparse file, so that its bytes do not stand here in one piece"
_AT_ONCE = 16  # indices read at once


@dataclass
class TarIndex:
    """The images of one tar, by columns.

    Attributes:
        tar: its name.
        bytes: its length.
        made_of: what tells the files it was made of from others; empty for tars of others.
        left_out: (member or file, reason).
        changes: what reading changes, with the images that it is true of.
    """

    tar: str
    bytes: int = 0
    made_of: str = ""
    names: list[str] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    length: list[int] = field(default_factory=list)
    height: list[int] = field(default_factory=list)
    width: list[int] = field(default_factory=list)
    crc32: list[int] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    changes: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, offset: int, content: bytes) -> str | None:
        """Enter an image. Returns the reason why it cannot be used, or None."""
        header = parse_header(content)
        if header.damage is not None or header.upright is None:
            return header.damage or "its size is not known before it is decoded"
        height, width = header.upright
        self.names.append(name)
        self.offset.append(offset)
        self.length.append(len(content))
        self.height.append(height)
        self.width.append(width)
        self.crc32.append(zlib.crc32(content))
        for kind in change_kinds(header):
            self.changes.setdefault(kind, []).append(name)
        return None

    def to_json(self) -> bytes:
        """Return what is written beside the tar."""
        return json.dumps({"version": VERSION, **asdict(self)}, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, content: bytes) -> TarIndex:
        """Read an index. Raises ValueError for what is none."""
        tree = json.loads(content)
        if not isinstance(tree, dict) or tree.pop("version", None) != VERSION:
            raise ValueError(f"expected an index of version {VERSION}")
        if tree.keys() != cls.__dataclass_fields__.keys():
            raise ValueError(f"expected an index of {', '.join(cls.__dataclass_fields__)}")
        return cls(**tree)


def index_name(tar: str) -> str:
    """Return the name of the index of a tar."""
    return f"{tar}.json"


def scan(tar: str, opened: IO[bytes], size: int, made_of: str = "") -> TarIndex:
    """Read a tar from its beginning to its end and return its index. Raises OptionError for what is no plain tar."""
    index = TarIndex(tar, size, made_of)
    try:
        with tarfile.open(fileobj=opened, mode="r|") as members:  # a stream: each byte is read once
            for member in members:
                if member.isdir():
                    continue
                wanted = is_image_name(member.name.rpartition("/")[2])
                in_one_piece = member.isreg() and not member.issparse()
                file = members.extractfile(member) if wanted and in_one_piece else None
                if file is not None:
                    reason = index.add(member.name, member.offset_data, file.read())
                else:
                    reason = _NOT_IN_ONE_PIECE if wanted else NO_IMAGE
                if reason is not None:
                    index.left_out.append((member.name, reason))
    except (tarfile.TarError, EOFError) as error:
        raise OptionError(
            f"{tar}: cannot be read as a tar ({error}); images are read from plain tars by their places, so compressed "
            "ones have to be unpacked (gzip -d)"
        ) from error
    return index


# --- the set ---------------------------------------------------------------------------------------------------------


def write_manifest(place: Place, indices: Mapping[str, bytes], tars: str | None = None) -> dict[str, Any]:
    """Write the manifest of tars with these indices, in this order; `tars` is where they lie if not here."""
    listed = [{"tar": tar, "index_crc32": zlib.crc32(content)} for tar, content in indices.items()]
    manifest = {"version": VERSION, "tars": tars, "shards": listed}
    place.write(MANIFEST, json.dumps(manifest, indent=1).encode())
    return manifest


@dataclass(frozen=True)
class ShardIndex:
    """All images of a set. Tensors, since a loader's workers share the memory of those however they are started.

    Attributes:
        place: where the tars lie.
        tars: their names.
        tar, offset, length, crc32, height, width: of each image.
        letters, ends: the names, one after the other, in UTF-8, and where each ends.
        remarks: what reading changes, and what was left out.
    """

    place: Place
    tars: Sequence[str]
    tar: Tensor
    offset: Tensor
    length: Tensor
    crc32: Tensor
    height: Tensor
    width: Tensor
    letters: Tensor
    ends: Tensor
    remarks: Sequence[str]

    def __len__(self) -> int:
        return len(self.tar)

    def name(self, member: int) -> str:
        """Return the name of an image in its tar."""
        start = int(self.ends[member - 1]) if member else 0
        return self.letters[start : int(self.ends[member])].numpy().tobytes().decode(errors="surrogateescape")

    @classmethod
    def read(cls, root: str) -> ShardIndex:
        """Read the index of a set. Raises OptionError for what is no set, or one whose index was not made with it."""
        place = Place(root)
        try:
            manifest = json.loads(place.read(MANIFEST))
            listed = {shard["tar"]: shard["index_crc32"] for shard in manifest["shards"]}
            tars = Place(manifest["tars"]) if manifest["tars"] else place
        except FileNotFoundError:
            raise OptionError(
                f"root: {place} has no {MANIFEST}; for tars without an index: python -m data.prepare index {place}; to "
                f"begin or finish a set: python -m data.prepare shards PHOTOS --out {place}"
            ) from None
        except (PlaceError, ValueError, KeyError, TypeError) as error:
            raise OptionError(f"root: {place.at(MANIFEST)} cannot be used ({error})") from error
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            indices = list(pool.map(lambda item: _read_index(place, *item), listed.items()))
        return joined(tars, indices)


def _read_index(place: Place, tar: str, crc32: int) -> TarIndex:
    name = index_name(tar)
    try:
        content = place.read(name, check=lambda c: None if zlib.crc32(c) == crc32 else "its checksum is another")
        return TarIndex.from_json(content)
    except (OSError, ValueError, TypeError) as error:
        raise OptionError(
            f"root: {place.at(name)}: is not what {MANIFEST} lists ({error}); give the command that made the set again"
        ) from error


def joined(place: Place, indices: Sequence[TarIndex]) -> ShardIndex:
    """Return several indices as one. Raises OptionError if they have no images."""
    letters = [name.encode(errors="surrogateescape") for index in indices for name in index.names]
    if not letters:
        raise OptionError(f"root: the tars in {place} hold no images")

    def column(name: str, dtype: torch.dtype) -> Tensor:
        parts = [np.asarray(getattr(index, name), np.int64) for index in indices]
        return torch.from_numpy(np.concatenate(parts)).to(dtype)

    counts = torch.tensor([len(index.names) for index in indices])
    return ShardIndex(
        place,
        [index.tar for index in indices],
        torch.arange(len(indices), dtype=torch.int32).repeat_interleave(counts),
        column("offset", torch.int64),
        column("length", torch.int64),
        column("crc32", torch.int64),
        column("height", torch.int32),
        column("width", torch.int32),
        torch.frombuffer(bytearray(b"".join(letters)), dtype=torch.uint8),
        torch.tensor([len(name) for name in letters]).cumsum(0),
        _remarks(place, indices, len(letters)),
    )


def _remarks(place: Place, indices: Sequence[TarIndex], total: int) -> list[str]:
    kinds = dict.fromkeys(kind for index in indices for kind in index.changes)
    changed = {kind: [name for index in indices for name in index.changes.get(kind, [])] for kind in kinds}
    left_out = [f"{index.tar}/{name}" for index in indices for name, _ in index.left_out]
    many = counted(len(left_out), "file is", "files are")
    return [
        *(f"{len(names)} of {total} images {kind} ({first_few(names)})" for kind, names in changed.items()),
        *([f"{place}: {many} left out ({first_few(left_out)})"] if left_out else []),
    ]
