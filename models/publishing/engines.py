"""Other programs that compute a generator: a network like any other for whoever restores with it.

They take it in a form in which it is published, and it is compared with PyTorch before it is used.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.network import Network
from models.publishing import ncnn
from models.publishing.bundle import ncnn_form
from models.publishing.onnx import traced_onnx
from models.restoring.generator import LoadedGenerator
from models.restoring.restorer import Engine, Precision
from utils.options.fields import OptionError

ALLOWED = {"fp32": 1e-3, "bf16": 0.2}
"""The largest difference from PyTorch in fp32 that rounding explains, in units of the result's range. Released networks
differ by 1e-5 and by 2e-2."""
TILES: dict[Engine, int] = {"openvino": 384, "ncnn": 256}
"""Sides of tiles for which x4plus takes about as much memory as PyTorch for the largest image that is not tiled."""
_SIZES = ((16, 24), (20, 12))

Run = Callable[[np.ndarray], np.ndarray]
"""What an engine makes of (N, C, h, w), float32."""


class EngineNetwork(Network):
    """Map `lq` (B, C, h, w) to `sr` (B, C, h·scale, w·scale) by what another program makes of it, on the CPU."""

    def __init__(self, network: Network, run: Run, tile: int = 0) -> None:
        super().__init__()
        self.scale, self.size_multiple, self.tile, self.run = network.scale, network.size_multiple, tile, run

    def forward(self, lq: Tensor) -> Tensor:
        """Restore `lq`, whose sides are multiples of `size_multiple`."""
        return torch.from_numpy(self.run(np.ascontiguousarray(lq.float().numpy())))


def on_engine(generator: LoadedGenerator, engine: Engine, precision: Precision = "fp32") -> LoadedGenerator:
    """Return the generator, computed by an engine with as many threads as PyTorch has.

    Raises OptionError if the engine is not installed, cannot have this network, does not compute in this precision, or
    computes something else.
    """
    if engine == "torch":
        return generator
    if generator.network.conditions:
        told = " and ".join(generator.network.conditions)
        raise OptionError(f"--engine {engine}: this network is told {told} with each image; use --engine torch")
    make, precisions = {"openvino": (_openvino, ("fp32", "bf16")), "ncnn": (_ncnn, ("fp32",))}[engine]
    if precision not in precisions:
        raise OptionError(f"--engine {engine}: computes in {' or '.join(precisions)}, not in {precision}")
    try:
        network = EngineNetwork(generator.network, make(generator, precision), TILES[engine]).eval()
    except ImportError as error:
        raise OptionError(f"--engine {engine}: it is not installed; pip install -e '.[{engine}]'") from error
    except OptionError as error:
        raise OptionError(f"--engine {engine}: {error}") from error
    for height, width in _SIZES:
        lq = torch.rand(1, generator.channels, height, width, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected, found = generator.network(lq), network(lq)
        if found.shape != expected.shape or not float((found - expected).abs().max()) <= ALLOWED[precision]:
            raise OptionError(f"--engine {engine}: computes this network differently from PyTorch; use --engine torch")
    return replace(generator, network=network)


def _openvino(generator: LoadedGenerator, precision: Precision) -> Run:
    core = import_module("openvino").Core()
    how = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else precision,
    }
    compiled = core.compile_model(core.read_model(traced_onnx(generator.network, generator.channels)), "CPU", how)
    return lambda lq: compiled(lq)[0]


def _ncnn(generator: LoadedGenerator, _: Precision) -> Run:
    import_module("ncnn")
    text, data = ncnn_form(generator, half=False)
    with tempfile.TemporaryDirectory() as place:
        param = Path(place) / "network.param"
        param.write_text(text, encoding="utf-8")
        param.with_suffix(".bin").write_bytes(data)
        run = ncnn.opened(param, torch.get_num_threads())
    return lambda lq: np.stack([run(image) for image in lq])
