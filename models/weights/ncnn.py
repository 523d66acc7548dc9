"""Models of ncnn (a text graph MODEL.param and its weights MODEL.bin), as realesrgan-ncnn and realsr-ncnn use them.

A graph is compared by what it computes, not by how it is written: each blob becomes an expression, so that names,
splits, order and the ways to write a sum or an activation do not matter. A graph is read if its expressions are those
of an RRDBNet or SRVGG, as `models.weights.ncnn_graph` makes them.

The weights follow each other in the order of the layers. A convolution's begin with a flag (0: float32, 0x01306B47:
float16, filled up to 4 bytes); biases and PReLU slopes are float32 without one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.weights.key_styles import State
from models.weights.kinds import NCNN_MAGIC
from models.weights.ncnn_graph import COPIES, LEAKY_RELU, RELU, WEIGHTED, Layer, Value, graph_of, guess_options
from utils.options.fields import OptionError

FLOAT16 = 0x01306B47
_OTHER_FLAGS = {0x000D4B38: "int8", 0x0002C056: "compressed float32"}


@dataclass(frozen=True)
class NcnnModel:
    """What a pair of files holds: the network's options, and its weights under canonical names in float32."""

    options: dict[str, Any]
    state: State


def read_ncnn(path: Path) -> NcnnModel:
    """Read MODEL.param and MODEL.bin, given either.

    Raises:
        OptionError: naming the first layer that is of no network known here, or what is wrong with the weights.
    """
    param, weights = path.with_suffix(".param"), path.with_suffix(".bin")
    for file in (param, weights):
        if not file.is_file():
            raise OptionError(f"{file}: no such file; an ncnn model is two files of one name, .param and .bin")
    layers = parse_graph(param.read_bytes(), str(param))
    options, names = identify(layers, str(param))
    return NcnnModel(options, read_weight_file(layers, names, weights.read_bytes(), str(weights)))


def parse_graph(text: bytes, where: str) -> list[Layer]:
    """Return the layers of a .param file, in their order. Raises OptionError naming the line that is none."""
    lines = text.decode("utf-8", "replace").splitlines()
    if not lines or lines[0].strip().encode() != NCNN_MAGIC:
        raise OptionError(f"{where}: is no ncnn graph, whose first line is {NCNN_MAGIC.decode()}")
    layers = []
    for number, line in enumerate(lines[2:], start=3):
        try:
            if words := line.split():
                layers.append(_parse_layer(words))
        except (ValueError, IndexError) as error:
            raise OptionError(f"{where}, line {number}: found {line.strip()!r}, expected a layer of ncnn") from error
    if len(lines) < 2 or lines[1].split()[:1] != [str(len(layers))]:
        raise OptionError(f"{where}: holds {len(layers)} layers, but its second line says {lines[1:2]}; is it whole?")
    return layers


def _parse_layer(words: list[str]) -> Layer:
    kind, name, inputs, outputs = words[0], words[1], int(words[2]), int(words[3])
    blobs, rest = words[4 : 4 + inputs + outputs], words[4 + inputs + outputs :]
    if len(blobs) < inputs + outputs or any("=" not in word for word in rest):
        raise ValueError("blobs are missing")
    values: dict[int, Value] = {}
    for word in rest:
        key, _, text = word.partition("=")
        if int(key) <= -23300:  # an array: its length, then its numbers
            values[-23300 - int(key)] = [float(part) for part in text.split(",")[1:]]
        else:
            values[int(key)] = float(text)
    return Layer(kind, name, blobs[:inputs], blobs[inputs:], values)


# --- what a graph computes -------------------------------------------------------------------------------------


class Unreadable(Exception):  # noqa: N818 - becomes an OptionError with the layer's name
    """A layer that no network known here has."""


Expression = tuple[str, tuple[float, ...], tuple[int, ...]]
"""What is done, by which numbers, with which earlier expressions."""
Scaled = tuple[float, int]
"""A blob: a number times an expression."""


@dataclass
class Expressions:
    """All different expressions that were met, by number; equal ones are one."""

    numbers: dict[Expression, int] = field(default_factory=dict)

    def of_graph(self, layers: Sequence[Layer]) -> list[int]:
        """Return the expression that each layer's output is.

        Raises Unreadable, whose argument is the first layer that computes anything unknown.
        """
        blobs: dict[str, Scaled] = {}
        found = []
        for layer in layers:
            try:
                inputs = [blobs[name] for name in layer.inputs]
                value = inputs[0] if layer.kind in COPIES else self._compute(layer, inputs)
            except (Unreadable, LookupError, ValueError) as error:
                raise Unreadable(layer) from error
            blobs |= dict.fromkeys(layer.outputs, value)
            found.append(value[1])
        return found

    def _add(self, kind: str, numbers: Sequence[float], inputs: Sequence[int]) -> int:
        expression = (kind, tuple(round(number, 6) for number in numbers), tuple(inputs))
        return self.numbers.setdefault(expression, len(self.numbers))

    def _compute(self, layer: Layer, inputs: Sequence[Scaled]) -> Scaled:
        number = layer.number
        match layer.kind:
            case "BinaryOp" if number(1) and number(0) == 2:  # times a constant
                return inputs[0][0] * number(2), inputs[0][1]
            case "BinaryOp" if len(inputs) == 2 and number(0) == 0:
                return 1, self._sum(inputs, [1, 1])
            case "Eltwise" if number(0) == 1:
                factors = layer.values.get(1, [1.0] * len(inputs))
                return 1, self._sum(inputs, factors if isinstance(factors, list) else [factors])
        if any(factor != 1 for factor, _ in inputs):
            raise Unreadable
        return 1, self._plain(layer, [expression for _, expression in inputs])

    def _sum(self, inputs: Sequence[Scaled], factors: Sequence[float]) -> int:
        terms = sorted((expression, own * factor) for (own, expression), factor in zip(inputs, factors, strict=True))
        return self._add("sum", [factor for _, factor in terms], [expression for expression, _ in terms])

    def _plain(self, layer: Layer, inputs: Sequence[int]) -> int:
        number = layer.number
        match layer.kind:
            case "Input":
                return self._add("input", (), ())
            case "Convolution" if not number(8) and number(18) == 0:
                sizes = [number(0), number(1), number(11, number(1)), number(2, 1), number(3, 1), number(4), number(5)]
                return self._add("convolution", [*sizes, number(6)], inputs)
            case "ReLU":
                return self._add("relu", [number(0)], inputs)
            case "PReLU":
                return self._add("prelu", [number(0)], inputs)
            case "Concat" if number(0) == 0:
                return self._add("concat", (), inputs)
            case "Interp" if number(1) == number(2) and number(1) > 0 and not number(6):
                return self._add("interp", [number(0), number(1)], inputs)
            case "PixelShuffle" | "Reorg" if number(1) == 0:
                return self._add(layer.kind, [number(0)], inputs)
        raise Unreadable


def _unfused(layers: Sequence[Layer]) -> list[Layer]:
    """Return the same graph, with activations that are part of a convolution as layers of their own."""
    result = []
    for layer in layers:
        kind = layer.number(9) if layer.kind == "Convolution" else 0
        if kind not in (RELU, LEAKY_RELU):
            result.append(layer)
            continue
        inner = [f"{layer.outputs[0]} of {layer.name}"]
        result.append(replace(layer, outputs=inner, values={**layer.values, 9: 0}))
        slope = layer.number(10) if kind == LEAKY_RELU else 0
        result.append(Layer("ReLU", layer.name, inner, layer.outputs, {0: slope}))
    return result


def identify(layers: Sequence[Layer], where: str) -> tuple[dict[str, Any], list[str]]:
    """Return the options of the network that a graph is, and the canonical names of its layers with weights, in order.

    Raises OptionError naming the first layer that does not fit.
    """
    try:
        options, layers = guess_options(layers, where), _unfused(layers)
    except ArithmeticError as error:  # sizes of 0 or beyond all measure
        raise OptionError(f"{where}: has layers of no possible size ({error}); is it whole?") from error
    expected, known = _unfused(graph_of(options)), Expressions()
    of_expected = known.of_graph(expected)
    names = {value: layer.name for value, layer in zip(of_expected, expected, strict=True) if layer.kind in WEIGHTED}
    count = len(known.numbers)
    try:
        found = known.of_graph(layers)
    except Unreadable as error:
        raise _misfit(error.args[0], options, where) from error
    for layer, expression in zip(layers, found, strict=True):
        if expression >= count:
            raise _misfit(layer, options, where)
    ordered = [names[value] for layer, value in zip(layers, found, strict=True) if layer.kind in WEIGHTED]
    if found[-1] != of_expected[-1] or sorted(ordered) != sorted(names.values()):
        raise _misfit(layers[-1], options, where)
    return options, ordered


def _misfit(layer: Layer, options: Mapping[str, Any], where: str) -> OptionError:
    shown = ", ".join(f"{key}: {value}" for key, value in options.items())
    return OptionError(
        f"{where}: layer {layer.name} ({layer.kind}) is the first that does not fit the nearest network known here, "
        f"{{{shown}}}; of ncnn's graphs those of RRDBNet and SRVGG are read"
    )


# --- weights ---------------------------------------------------------------------------------------------------


def read_weight_file(layers: Sequence[Layer], names: Sequence[str], data: bytes, where: str) -> State:
    """Return the weights that follow each other in a .bin file, in float32 under canonical names.

    Raises OptionError if they are quantised, or the file is shorter or longer than the graph says.
    """
    state, at = {}, 0

    def take(count: int, dtype: str) -> Tensor:
        nonlocal at
        size = count * np.dtype(dtype).itemsize
        if at + size > len(data):
            raise OptionError(f"{where}: ends after {len(data)} bytes, in the middle of layer {layer.name}")
        values = np.frombuffer(data, dtype, count, at).astype(np.float32)
        at += size
        return torch.from_numpy(values)

    for layer, name in zip((layer for layer in layers if layer.kind in WEIGHTED), names, strict=True):
        outputs = int(layer.number(0))
        if layer.kind == "PReLU":
            state[f"{name}.weight"] = take(outputs, "<f4")
            continue
        count, side = int(layer.number(6)), int(layer.number(1))
        flag = int.from_bytes(data[at : at + 4], "little")
        at += 4
        if flag not in (0, FLOAT16):
            found = _OTHER_FLAGS.get(flag, f"flag {flag:#x}")
            raise OptionError(f"{where}: the weights of layer {layer.name} are {found}; float32 and float16 are read")
        state[f"{name}.weight"] = take(count, "<f2" if flag else "<f4").view(outputs, -1, side, side)
        at += -at % 4
        if layer.number(5):
            state[f"{name}.bias"] = take(outputs, "<f4")
    if at != len(data):
        raise OptionError(f"{where}: holds {len(data)} bytes, but the graph beside it has weights of {at}")
    return state
