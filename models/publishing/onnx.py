"""Networks as one ONNX file, for onnxruntime and what is built on it."""

import warnings
from importlib import import_module
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.network import Network
from utils.options.fields import OptionError

OPSET = 18
HOW = "pip install -e '.[publish]'"


class WholeImages(nn.Module):
    """A generator for images of any size in float32: they are mirrored up to its size multiple, the result is cut."""

    def __init__(self, network: Network, half: bool) -> None:
        super().__init__()
        self.network, self.half_precision = network.half() if half else network, half

    def forward(self, lq: Tensor) -> Tensor:
        multiple, scale = self.network.size_multiple, self.network.scale
        height, width = lq.shape[-2:]
        for axis, side in ((-2, height), (-1, width)) if multiple > 1 else ():
            # As a product, so that the exporter sees that it is a multiple.
            there = torch.arange(multiple * ((side + multiple - 1) // multiple))
            lq = lq.index_select(axis, torch.minimum(there, 2 * side - 2 - there).clamp(min=0))
        sr = self.network(lq.half() if self.half_precision else lq)
        return sr.float()[..., : height * scale, : width * scale]


def write_onnx(network: Network, channels: int, path: Path, half: bool = False) -> None:
    """Write a generator with input `lq` and output `sr` (B, C, h, w), all but C of any size, float32 in [0, 1].

    Raises OptionError for a network that is told more than the image, and if the exporter is not installed.
    """
    if network.conditions:
        # Tried with torch 2.14: of USRNet's Fourier step FFTs and products are converted, and unsqueeze alone is not.
        # With reshape in its place, onnxruntime agrees to 3e-7 at the example's size, but an export for all sizes had
        # not ended after 8 minutes.
        raise OptionError(
            f"onnx: this network is told {', '.join(network.conditions)} with each image and solves for it in Fourier "
            "space; PyTorch's exporter cannot unsqueeze complex numbers, and follows FFTs for images of one size only; "
            "publish it as safetensors or pth"
        )
    _needed("onnxscript")
    sizes = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    example = torch.full((2, channels, 8 * network.size_multiple, 12 * network.size_multiple), 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about its own parts
        torch.onnx.export(
            WholeImages(network, half).eval(),
            (example,),
            str(path),
            input_names=["lq"],
            output_names=["sr"],
            dynamic_shapes=(sizes,),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )


def traced_onnx(network: Network, channels: int) -> bytes:
    """Return a generator as ONNX for images of any size whose sides are multiples of `size_multiple`.

    By PyTorch's older exporter, which follows one call: in a twentieth of the time (x4plus: 3 s against a minute), but
    what depends on sizes may be written down as of that call, so compare the results. Raises OptionError if it fails.
    """
    example = torch.full((1, channels, 8 * network.size_multiple, 12 * network.size_multiple), 0.5)
    file, sizes = BytesIO(), {0: "batch", 2: "height", 3: "width"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is the older one, and what it writes down
        try:
            torch.onnx.export(
                network,
                (example,),
                file,  # pyright: ignore[reportArgumentType] - the older one takes files, too
                input_names=["lq"],
                output_names=["sr"],
                dynamic_axes={"lq": sizes, "sr": sizes},
                opset_version=OPSET,
                dynamo=False,
            )
        except RuntimeError as error:
            raise OptionError(f"onnx: this network cannot be exported ({str(error).splitlines()[0]})") from error
    return file.getvalue()


def run_onnx(path: Path, lq: Tensor) -> Tensor:
    """Return what onnxruntime makes of an image (1, C, h, w) on the CPU."""
    runtime = _needed("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(np.asarray(session.run(["sr"], {"lq": lq.numpy()})[0]))


def _needed(module: str):  # noqa: ANN202 - a module
    try:
        return import_module(module)
    except ImportError as error:
        raise OptionError(f"onnx: {module} is not installed; {HOW}") from error
