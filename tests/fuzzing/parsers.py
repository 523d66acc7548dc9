"""Our parsers as functions of bytes, each with files to begin from, and the errors by which it may refuse."""

import io
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors.torch import save

from data.shard_index import TarIndex, scan
from data.sources.lmdb import parse_meta
from degradations.kernels.files import read_kernels
from models.network import NETWORKS
from models.publishing.ncnn import ncnn_files
from models.weights.load import read_weights, stated_network
from models.weights.ncnn import identify, parse_graph, read_weight_file
from tests.unit import test_formats
from utils.images.bands import read_in_bands, why_not_in_bands
from utils.images.files import ImageError, decode_picture, read_picture, sound_header
from utils.images.header import parse_header
from utils.options.fields import OptionError
from utils.options.files import parse

SRVGG = {"type": "srvgg", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 4, "num_conv": 2, "act_type": "prelu"}
RRDBNET = {"type": "rrdbnet", "num_in_ch": 3, "num_out_ch": 3, "num_feat": 5, "num_block": 1, "num_grow_ch": 3}


@dataclass(frozen=True)
class Parser:
    """A parser, files that it reads, and how it refuses others."""

    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    refusals: tuple[type[Exception], ...]

    def __call__(self, data: bytes) -> None:
        """Read the bytes, or see them refused. Raises what the parser should not."""
        try:
            self.read(data)
        except self.refusals as error:
            assert str(error).strip(), "says nothing"


def _image(data: bytes) -> None:
    header = parse_header(data)
    picture = decode_picture(data, "a", max_megapixels=0.05)
    assert picture.pixels.ndim == 3 and picture.pixels.dtype in (np.uint8, np.uint16)
    if header.size is not None:
        assert sorted(header.size) == sorted(picture.pixels.shape[:2]), "the header tells another size"
    picture.srgb()


def _bands(path: Path) -> None:
    """Read a file from top to bottom, where that is done, and compare."""
    header = sound_header(path.read_bytes(), path, max_megapixels=0.05)
    if why_not_in_bands(header, path) is None:
        whole = read_picture(path, max_megapixels=0.05).pixels
        assert np.array_equal(np.concatenate([band.pixels for band in read_in_bands(path, header)]), whole)


def _tar() -> bytes:
    def save(buffer: io.BytesIO) -> None:
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            for name in ("a.png", "folder/b.jpg", "c.txt"):
                info = tarfile.TarInfo(name)
                info.size = len(content := bytes(test_formats.TABLE[next(iter(test_formats.TABLE))].data))
                tar.addfile(info, io.BytesIO(content))

    return _saved(save)


@cache
def _network(kind: str) -> tuple[dict[str, object], str, bytes, dict[str, torch.Tensor]]:
    options = {**(SRVGG if kind == "srvgg" else RRDBNET), "scale": 2}
    options |= {"upscale": 2} if kind == "srvgg" else {"upsampling": "unshuffle"}
    state = NETWORKS.build(options).state_dict()
    return options, *ncnn_files(options, state, True), state


def _ncnn_weights(data: bytes) -> None:
    _, text, _, _ = _network("srvgg")
    layers = parse_graph(text.encode(), "a")
    read_weight_file(layers, identify(layers, "a")[1], data, "a")


def _in_a_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    def of_bytes(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, name)
            path.write_bytes(data)
            read(path)

    return of_bytes


def _weights(path: Path) -> None:
    stated_network(path)
    read_weights(path)


def _ncnn_pair(data: bytes) -> None:
    """A graph and its weights, in one."""
    text, _, values = data.partition(b"\0\0\0\0\0\0\0\0")
    layers = parse_graph(text, "a")
    read_weight_file(layers, identify(layers, "a")[1], values, "a")


def _options(json_syntax: bool) -> Callable[[bytes], object]:
    return lambda data: parse(data.decode("utf-8", "replace"), "a", json_syntax)


def _meta(data: bytes) -> None:
    for line in data.decode("utf-8", "replace").splitlines():
        parse_meta(line)


def _pickled() -> bytes:
    buffer = io.BytesIO()
    torch.save({"params_ema": _network("srvgg")[3]}, buffer)
    return buffer.getvalue()


def _saved(save: Callable[[io.BytesIO], object]) -> bytes:
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


_YAML_TEXTS = [
    b"name: a\nbase: [b.yml]\nscale: 2\nstages: {psnr: {lr: 2e-4, on: yes}}\nlist:\n- x\n- {y: ~}\n",
    b"a: !!int 7\nb: &x [1]\nc: !!binary aGk=\nd: |\n  text\n? e\n: 0x1F\n",
]
_JSON_TEXT = b'{"a": [1, 2.5e3, null, "x // y"], // c\n "b": {"c": true}}'
_META_TEXTS = [b"0001.png (480,480,3) 1\nfolder/a b.jpg (1,2,3) 1\nplain\n"]
PARSERS = {
    "image": Parser(_image, lambda: [bytes(file.data) for file in test_formats.TABLE.values()], (ImageError,)),
    "bands": Parser(
        _in_a_file("a", _bands), lambda: [bytes(file.data) for file in test_formats.TABLE.values()], (ImageError,)
    ),
    "tar": Parser(lambda data: scan("a", io.BytesIO(data), len(data)), lambda: [_tar()], (OptionError,)),
    "shard_index": Parser(
        TarIndex.from_json,
        lambda: [scan("a", io.BytesIO(tar := _tar()), len(tar)).to_json()],
        (ValueError,),
    ),
    "ncnn_graph": Parser(
        lambda data: identify(parse_graph(data, "a"), "a"),
        lambda: [_network(kind)[1].encode() for kind in ("srvgg", "rrdbnet")],
        (OptionError,),
    ),
    "ncnn_weights": Parser(_ncnn_weights, lambda: [_network("srvgg")[2]], (OptionError,)),
    "ncnn_pair": Parser(
        _ncnn_pair,
        lambda: [_network(k)[1].encode() + bytes(8) + _network(k)[2] for k in ("srvgg", "rrdbnet")],
        (OptionError,),
    ),
    "safetensors": Parser(
        _in_a_file("a.safetensors", _weights),
        lambda: [save(_network("srvgg")[3], {"network": '{"type": "srvgg"}'})],
        (OptionError,),
    ),
    "pickle": Parser(_in_a_file("a.pth", _weights), lambda: [_pickled()], (OptionError,)),
    "meta": Parser(_meta, lambda: _META_TEXTS, (ValueError,)),
    "yaml": Parser(_options(False), lambda: [*_YAML_TEXTS, yaml.dump(SRVGG).encode()], (OptionError,)),
    "json": Parser(_options(True), lambda: [_JSON_TEXT], (OptionError,)),
    "npz": Parser(
        _in_a_file("a.npz", read_kernels),
        lambda: [_saved(lambda b: np.savez(b, kernels=np.ones((2, 3, 3)) / 9, accepted=np.ones(2)))],
        (OptionError,),
    ),
}
