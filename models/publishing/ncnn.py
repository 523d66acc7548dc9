"""Models for ncnn's programs: a text graph and its weights, which `models.weights.ncnn` reads back byte by byte."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.weights.kinds import NCNN_MAGIC
from models.weights.ncnn import FLOAT16
from models.weights.ncnn_graph import INPUT, OUTPUT, WEIGHTED, Layer, Value, graph_of
from utils.options.fields import OptionError

KINDS = ("rrdbnet", "srvgg")


def ncnn_files(options: Mapping[str, Any], state: Mapping[str, Tensor], half: bool = True) -> tuple[str, bytes]:
    """Return the contents of MODEL.param and MODEL.bin.

    Args:
        options: all options of an rrdbnet or srvgg, as `models.weights.guess` gives them.
        half: whether the weights of convolutions become float16, as in the released files; biases stay float32.

    Raises:
        OptionError: if a weight is too large for float16.
    """
    layers = graph_of(options)
    return graph_text(with_splits(layers)), weight_bytes(layers, state, half)


def graph_text(layers: Sequence[Layer]) -> str:
    """Return what a .param file holds: the magic number, the numbers of layers and blobs, a line for each layer."""
    blobs = sum(len(layer.outputs) for layer in layers)
    return "\n".join([NCNN_MAGIC.decode(), f"{len(layers)} {blobs}", *map(_line, layers)]) + "\n"


def _line(layer: Layer) -> str:
    values = [_pair(key, value) for key, value in sorted(layer.values.items())]
    words = [f"{layer.kind:<24} {layer.name:<24} {len(layer.inputs)} {len(layer.outputs)}"]
    return " ".join([*words, *layer.inputs, *layer.outputs, *values])


def _pair(key: int, value: Value) -> str:
    if isinstance(value, list):  # an array: its length, then its numbers
        return f"{-23300 - key}={','.join([str(len(value)), *(f'{number:e}' for number in value)])}"
    return f"{key}={value:e}" if isinstance(value, float) else f"{key}={value}"


def with_splits(layers: Sequence[Layer]) -> list[Layer]:
    """Return the graph with a Split behind every blob that more than one layer reads, which ncnn asks for."""
    readers = Counter(blob for layer in layers for blob in layer.inputs)
    used: Counter[str] = Counter()

    def copy_of(blob: str) -> str:
        if readers[blob] < 2:
            return blob
        used[blob] += 1
        return f"{blob}_{used[blob] - 1}"

    result = []
    for layer in layers:
        result.append(replace(layer, inputs=[copy_of(blob) for blob in layer.inputs]))
        for blob in layer.outputs:
            if (count := readers[blob]) > 1:
                result.append(Layer("Split", f"split_{blob}", [blob], [f"{blob}_{copy}" for copy in range(count)]))
    return result


def weight_bytes(layers: Sequence[Layer], state: Mapping[str, Tensor], half: bool) -> bytes:
    """Return what a .bin file holds: the weights of the layers in their order.

    Raises OptionError for what float16 cannot hold.
    """
    parts: list[bytes] = []
    for layer in layers:
        if layer.kind not in WEIGHTED:
            continue
        weight = state[f"{layer.name}.weight"].detach().cpu().float().numpy()
        if layer.kind == "PReLU":
            parts.append(weight.astype("<f4").tobytes())
            continue
        if half and np.abs(weight).max() > np.finfo(np.float16).max:
            raise OptionError(f"{layer.name}: a weight of {np.abs(weight).max():g} is more than float16 holds (65504)")
        stored = weight.astype("<f2" if half else "<f4").tobytes()  # numpy keeps subnormal numbers
        parts += [(FLOAT16 if half else 0).to_bytes(4, "little"), stored, b"\0" * (-len(stored) % 4)]
        parts.append(state[f"{layer.name}.bias"].detach().cpu().float().numpy().astype("<f4").tobytes())
    return b"".join(parts)


def rounded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state dict with the weights of convolutions rounded to float16, as `ncnn_files` writes them."""
    return {key: value.to(torch.float16).float() if value.ndim == 4 else value.clone() for key, value in state.items()}


def run_ncnn(param: Path, lq: Tensor) -> Tensor:
    """Return what ncnn makes of an image (1, C, h, w) on the CPU, computing in float32."""
    return torch.from_numpy(opened(param)(lq[0].contiguous().numpy()))[None]


def opened(param: Path, threads: int = 1) -> Callable[[np.ndarray], np.ndarray]:
    """Read a model; return what ncnn makes of an image (C, h, w), float32, on the CPU, computing in float32.

    Raises OptionError if ncnn is not installed or cannot read it.
    """
    try:
        runtime = import_module("ncnn")
    except ImportError as error:
        raise OptionError("ncnn: it is not installed; pip install -e '.[publish]'") from error
    net = runtime.Net()
    net.opt.num_threads = threads
    for name in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, name, False)
    if net.load_param(str(param)) or net.load_model(str(param.with_suffix(".bin"))):
        raise OptionError(f"{param}: ncnn cannot read it")

    def run(image: np.ndarray) -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input(INPUT, runtime.Mat(image))  # ncnn reads the array where it lies
        return np.array(extractor.extract(OUTPUT)[1])

    return run
