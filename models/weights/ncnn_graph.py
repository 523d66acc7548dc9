"""The layers of ncnn that RRDBNet and SRVGG are made of, in the form that the released files have."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from utils.options.fields import OptionError

Value = float | list[float]

RELU, LEAKY_RELU = 1, 2  # a convolution's activation, `9=`
NEAREST, BICUBIC = 1, 3  # an Interp's `0=`
WEIGHTED = ("Convolution", "PReLU")
COPIES = ("Split", "Noop", "Dropout")
INPUT, OUTPUT = "data", "output"  # the blobs that realesrgan-ncnn and realsr-ncnn ask for


@dataclass
class Layer:
    """A line of a .param file: what is done by which numbers (under ncnn's keys) to which blobs."""

    kind: str
    name: str
    inputs: list[str]
    outputs: list[str]
    values: dict[int, Value] = field(default_factory=dict)

    def number(self, key: int, default: float = 0) -> float:
        """Return a value that is no array, or the first of one."""
        value = self.values.get(key, default)
        return (value[0] if value else default) if isinstance(value, list) else value


def graph_of(options: Mapping[str, Any]) -> list[Layer]:
    """Return the graph of an rrdbnet or srvgg with all options given, layers named as their weights, without splits."""
    return _rrdbnet(options) if options["type"] == "rrdbnet" else _srvgg(options)


class _Graph:
    """Layers one after another; each method adds one, and returns its output."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.add("Input", INPUT, [])

    def add(self, kind: str, name: str, inputs: Sequence[str], values: Mapping[int, Value] | None = None) -> str:
        self.layers.append(Layer(kind, name, list(inputs), [name], dict(values or {})))
        return name

    def convolution(self, name: str, x: str, channels: tuple[int, int], leak: float | None = None) -> str:
        """Add a 3x3 convolution, then LeakyReLU where `leak` is its slope, ReLU where that is 0."""
        values: dict[int, Value] = {0: channels[1], 1: 3, 4: 1, 5: 1, 6: 9 * channels[0] * channels[1]}
        if leak is not None:
            values |= {9: LEAKY_RELU, 10: [leak]} if leak else {9: RELU}
        return self.add("Convolution", name, [x], values)

    def damped_sum(self, name: str, residual: str, x: str) -> str:
        """Add x + 0.2 residual."""
        return self.add("Eltwise", name, [residual, x], {0: 1, 1: [0.2, 1.0]})

    def resize(self, name: str, x: str, factor: float, kind: int = NEAREST) -> str:
        return self.add("Interp", name, [x], {0: kind, 1: float(factor), 2: float(factor)})

    def finished(self) -> list[Layer]:
        """Return all layers; the last one's blob is the output."""
        self.layers[-1].outputs = [OUTPUT]
        return self.layers


def _rrdbnet(options: Mapping[str, Any]) -> list[Layer]:
    graph, feat, grow = _Graph(), options["num_feat"], options["num_grow_ch"]
    unshuffled = options["upsampling"] == "unshuffle" and options["scale"] != 4
    factor = 4 // options["scale"] if unshuffled else 1
    x = graph.add("Reorg", "unshuffle", [INPUT], {0: factor}) if factor > 1 else INPUT
    first = x = graph.convolution("conv_first", x, (options["num_in_ch"] * factor**2, feat))
    for block in range(options["num_block"]):
        into = x
        for number in (1, 2, 3):
            part, dense = f"body.{block}.rdb{number}", [x]
            for step in (1, 2, 3, 4):
                wide = graph.add("Concat", f"{part}.cat{step}", dense) if step > 1 else x
                channels = (feat + (step - 1) * grow, grow)
                dense.append(graph.convolution(f"{part}.conv{step}", wide, channels, leak=0.2))
            wide = graph.add("Concat", f"{part}.cat5", dense)
            x = graph.damped_sum(f"{part}.sum", graph.convolution(f"{part}.conv5", wide, (feat + 4 * grow, feat)), x)
        x = graph.damped_sum(f"body.{block}.sum", x, into)
    x = graph.add("BinaryOp", "sum", [first, graph.convolution("conv_body", x, (feat, feat))], {})
    steps = [3] if options["scale"] == 3 else [2] * round(math.log2(options["scale"] * factor))
    for number, step in enumerate(steps, start=1):
        x = graph.convolution(f"conv_up{number}", graph.resize(f"up{number}", x, step), (feat, feat), leak=0.2)
    x = graph.convolution("conv_hr", x, (feat, feat), leak=0.2)
    graph.convolution("conv_last", x, (feat, options["num_out_ch"]))
    return graph.finished()


def _srvgg(options: Mapping[str, Any]) -> list[Layer]:
    graph, feat, upscale = _Graph(), options["num_feat"], options["upscale"]
    leak = {"prelu": None, "relu": 0.0, "leakyrelu": 0.1}[options["act_type"]]
    x, channels = INPUT, options["num_in_ch"]
    for number in range(options["num_conv"] + 1):
        x = graph.convolution(f"body.{2 * number}", x, (channels, feat), leak)
        if leak is None:
            x = graph.add("PReLU", f"body.{2 * number + 1}", [x], {0: feat})
        channels = feat
    x = graph.convolution(f"body.{2 * options['num_conv'] + 2}", x, (feat, options["num_out_ch"] * upscale**2))
    x = graph.add("PixelShuffle", "shuffle", [x], {0: upscale})
    x = graph.add("BinaryOp", "sum", [x, graph.resize("nearest", INPUT, upscale)], {})
    if upscale != options["scale"]:
        graph.resize("resize", x, options["scale"] / upscale, BICUBIC)
    return graph.finished()


def guess_options(layers: Sequence[Layer], where: str) -> dict[str, Any]:
    """Return the options of the network that a graph is most like. Raises OptionError if it is like none."""
    convolutions = [layer for layer in layers if layer.kind == "Convolution"]
    if len(convolutions) < 2 or any(min(layer.number(0), layer.number(1)) < 1 for layer in convolutions):
        raise OptionError(
            f"{where}: has no chain of convolutions; of ncnn's graphs those of RRDBNet and SRVGG are read"
        )
    of_kind = {kind: [layer for layer in layers if layer.kind == kind] for kind in ("Concat", "Reorg", "PixelShuffle")}
    resizes = [layer for layer in layers if layer.kind == "Interp"]
    first = convolutions[0]
    inputs = int(first.number(6) / (first.number(0) * first.number(1) ** 2))
    outputs = [int(layer.number(0)) for layer in convolutions]
    if of_kind["Concat"]:
        factor = max((int(layer.number(0)) for layer in of_kind["Reorg"]), default=1)
        scale = round(math.prod(layer.number(1) for layer in resizes)) // factor
        known = (1, 2) if factor > 1 else (1, 2, 3, 4, 8)
        return {
            "type": "rrdbnet",
            "scale": scale if scale in known else 4,
            "num_in_ch": inputs // factor**2,
            "num_out_ch": outputs[-1],
            "num_feat": outputs[0],
            "num_block": max(1, (len(outputs) - 4 - len(resizes)) // 15),
            "num_grow_ch": outputs[1],
            "upsampling": "unshuffle" if factor > 1 else "steps",
        }
    upscale = max([1, *(int(layer.number(0)) for layer in of_kind["PixelShuffle"])])
    shrink = next((layer.number(1) for layer in resizes if layer.number(0) == BICUBIC), 1.0)
    fused = {RELU: "relu", LEAKY_RELU: "leakyrelu"}
    return {
        "type": "srvgg",
        "scale": max(1, round(upscale * shrink)),
        "num_in_ch": inputs,
        "num_out_ch": max(1, outputs[-1] // upscale**2),
        "num_feat": outputs[0],
        "num_conv": len(outputs) - 2,
        "act_type": fused.get(int(first.number(9)), "prelu"),
        "upscale": upscale,
    }
