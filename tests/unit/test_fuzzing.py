"""Our parsers answer or refuse whatever they are given: files changed at random, and those that once broke them.

`python -m tests.fuzzing` does the same for longer, guided by coverage.
"""

import io
import struct
import time
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzzing.parsers import PARSERS
from tests.unit.test_formats import GRAY8, RGB8, by_tifffile

SECONDS = 5  # of the processor, for a file of some kilobytes


def changed(seed: bytes) -> st.SearchStrategy[bytes]:
    """A file with a few bytes replaced, cut out, doubled, or its end cut off."""
    place = st.integers(0, len(seed))
    edits = st.lists(
        st.tuples(st.sampled_from("=-+"), place, st.binary(min_size=1, max_size=8)), min_size=1, max_size=5
    )

    def apply(edits: list[tuple[str, int, bytes]], end: int) -> bytes:
        data = bytearray(seed)
        for kind, at, piece in edits:
            data[at : at + (0 if kind == "+" else len(piece))] = b"" if kind == "-" else piece
        return bytes(data[:end] if end % 4 == 0 else data)

    return st.builds(apply, edits, place)


@pytest.mark.parametrize("name", PARSERS)
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(data=st.data())
def test_changed_files_are_read_or_refused(name: str, data: st.DataObject) -> None:
    seed = data.draw(st.sampled_from(PARSERS[name].seeds()).flatmap(changed))
    start = time.process_time()
    PARSERS[name](seed)
    assert time.process_time() - start < SECONDS


def circle() -> bytes:
    """A TIFF whose only page is its own next one."""
    data = bytearray(by_tifffile(RGB8, photometric="rgb"))
    (first,) = struct.unpack_from("<I", data, 4)
    (tags,) = struct.unpack_from("<H", data, first)
    struct.pack_into("<I", data, first + 2 + 12 * tags, first)
    return bytes(data)


def with_tag(number: int, count: int) -> bytes:
    """A TIFF one of whose tags says that it holds so many numbers."""
    data = bytearray(by_tifffile(RGB8, photometric="rgb"))
    (first,) = struct.unpack_from("<I", data, 4)
    at = next(at for at in range(first + 2, len(data), 12) if struct.unpack_from("<H", data, at)[0] == number)
    struct.pack_into("<I", data, at + 4, count)
    return bytes(data)


def gray_with(number: int, value: int, **options: Any) -> bytes:
    """A TIFF of one channel, a tag of which has another value."""
    data = bytearray(by_tifffile(GRAY8, **options))
    (first,) = struct.unpack_from("<I", data, 4)
    at = next(at for at in range(first + 2, len(data), 12) if struct.unpack_from("<H", data, at)[0] == number)
    struct.pack_into("<H", data, at + 8, value)
    return bytes(data)


def with_text() -> bytes:
    """An archive with a text among its arrays."""
    buffer = io.BytesIO(PARSERS["npz"].seeds()[0])
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("accepted", "yes")
    return buffer.getvalue()


def with_half_a_header() -> bytes:
    """An archive with an array whose header opens a bracket more than it closes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("kernels.npy", b"\x93NUMPY\1\0\x08\0{(('a': \n")
    return buffer.getvalue()


GRAPH = PARSERS["ncnn_graph"].seeds()[1].decode()
ONCE_BROKE = {
    "a TIFF in a circle": ("image", circle()),
    "a TIFF with many widths": ("image", with_tag(256, 20)),
    "a TIFF without rows": ("image", gray_with(257, 0, photometric="palette", colormap=np.zeros((3, 256), np.uint16))),
    "a TIFF of 48 bits": ("bands", gray_with(258, 48, photometric="minisblack")),
    "a graph that unshuffles by 0": ("ncnn_graph", GRAPH.replace("0=2", "0=0").encode()),
    "a graph of infinite size": ("ncnn_graph", GRAPH.replace("0=2", "0=1e400").encode()),
    "YAML of an empty number": ("yaml", b"a: !!int ''"),
    "an archive of several disks": ("pickle", PARSERS["pickle"].seeds()[0].replace(b"PK\6\7\0", b"PK\6\7\1")),
    "an archive with a name in no encoding": (
        "pickle",
        PARSERS["pickle"].seeds()[0].replace(b"data.pkl", b"\x90ata.pkl"),
    ),
    "an archive with a text": ("npz", with_text()),
    "an archive whose array begins with half a line": ("npz", with_half_a_header()),
    "an index that is a number": ("shard_index", b"0"),
    "an archive of a version to come": ("npz", PARSERS["npz"].seeds()[0].replace(b"PK\1\2-\3-\0", b"PK\1\2-\3\xff\0")),
}


@pytest.mark.parametrize("name", ONCE_BROKE)
def test_what_once_broke_a_parser_is_read_or_refused(name: str) -> None:
    parser, data = ONCE_BROKE[name]
    assert data not in PARSERS[parser].seeds(), "the change found its place"
    start = time.process_time()
    PARSERS[parser](data)
    assert time.process_time() - start < SECONDS
