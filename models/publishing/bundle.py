"""A generator's files for other programs, each run by its own runtime, and kept only if that computes the same."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save
from torch import Tensor

from models.networks.blocks import mirrored
from models.publishing import ncnn, onnx
from models.restoring.generator import LoadedGenerator, load_generator
from models.weights.guess import guess_network
from utils.options.fields import OptionError

Form = Literal["safetensors", "pth", "onnx", "ncnn"]
Run = Callable[[Tensor], Tensor]

SIZES = ((40, 64), (37, 51))
LARGEST = 1e-4
"""The largest difference, in units of the result's range, that rounding in float32 explains."""


@dataclass(frozen=True)
class Published:
    """Files of one form, and how they were found to compute.

    Attributes:
        largest: the largest difference between their runtime and PyTorch, on a photograph at two sizes.
        notes: what who uses them should know.
    """

    form: Form
    files: list[Path]
    runtime: str
    largest: float
    notes: list[str]


def publish(
    generator: LoadedGenerator, name: str, out: Path, forms: Sequence[Form], photo: Tensor, half: bool | None = None
) -> Iterator[Published]:
    """Write a generator in several forms, one after the other.

    Args:
        photo: (1, 3, h, w) in [0, 1], from which each file's check takes its images.
        half: float16 in ONNX and ncnn; None: in ncnn, whose released models have float16 weights.

    Raises:
        OptionError: for a form that the network cannot have, whose runtime is missing, or that computes differently:
            such a file is not left in `out`.
    """
    out.mkdir(parents=True, exist_ok=True)
    for form in forms:
        done, check = _WRITERS[form](generator, name, out, half)
        try:
            largest = _difference(check, photo, generator, form, half)
        except Exception:  # a runtime raises what it likes
            for file in done.files:
                file.unlink(missing_ok=True)
            raise
        yield replace(done, largest=largest)


@dataclass(frozen=True)
class Check:
    """How a written file is run, and what it must equal."""

    run: Run
    reference: torch.nn.Module
    multiple: int = 1


def _difference(check: Check, photo: Tensor, generator: LoadedGenerator, form: Form, half: bool | None) -> float:
    """Measure the largest difference at two sizes. Raises OptionError if it is more than rounding."""
    scale, multiple, largest = generator.network.scale, generator.network.size_multiple, 0.0
    allowed = 100 * LARGEST if half and form == "onnx" else LARGEST
    for height, width in SIZES:
        height, width = (-(-side // check.multiple) * check.multiple for side in (height, width))
        lq = photo[:, : generator.channels, :height, :width]
        with torch.inference_mode():
            whole = mirrored(lq, -height % multiple, -width % multiple)
            expected = check.reference(whole, **told(generator))[..., : height * scale, : width * scale].float()
            found = check.run(lq)
        if found.shape != expected.shape:
            raise OptionError(
                f"{form}: gives {tuple(found.shape)} where PyTorch gives {tuple(expected.shape)}; not written"
            )
        ours = float((found - expected).abs().max()) / max(1.0, float(expected.abs().max()))
        largest = max(largest, ours)
        if not largest <= allowed:
            raise OptionError(
                f"{form}: differs from PyTorch by {largest:.2g} at {height}x{width}, more than {allowed:g}; not written"
            )
    return largest


def told(generator: LoadedGenerator) -> Mapping[str, Any]:
    """Return a kernel and noise for networks that are told them, so that they can be compared too."""
    known = {"scale": generator.network.scale, "kernel": torch.zeros(1, 25, 25), "sigma": torch.zeros(1)}
    known["kernel"][:, 12, 12] = 1
    return {name: known[name] for name in generator.network.conditions}


def _write_weights(generator: LoadedGenerator, name: str, out: Path, form: Form) -> tuple[Published, Check]:
    """Write a state dict under BasicSR's names and entries."""
    path = out / f"{name}.{form}"
    state = {key: value.detach().cpu().contiguous() for key, value in generator.network.state_dict().items()}
    if form == "pth":
        torch.save({"params_ema": state}, path)
    else:
        path.write_bytes(save(state, metadata={"format": "pt"}))  # others may read it; save_file of 0.8.0 forbids that
    otherwise = {"scale": generator.network.scale, **generator.options}
    try:
        again = load_generator(path, otherwise=otherwise)
    except OptionError:
        path.unlink()
        raise
    notes = [] if (trouble := spandrel_trouble(generator)) is None else [f"spandrel 0.4.2 {trouble}"]
    if again.network.scale != generator.network.scale and not generator.network.conditions:
        again = replace(again, network=deepcopy(generator.network))
        again.network.load_state_dict(state)
        notes.append(f"the file alone does not tell its scale {generator.network.scale}; give the option file")
    multiple = generator.network.size_multiple

    reader, runtime = again.network, "PyTorch"
    if trouble is None and find_spec("spandrel") is not None:
        reader, runtime = import_module("spandrel").ModelLoader("cpu").load_from_file(path).model, "spandrel"

    def run(lq: Tensor) -> Tensor:
        height, width = lq.shape[-2:]
        sr = reader(mirrored(lq, -height % multiple, -width % multiple), **told(generator))
        return sr[..., : height * generator.network.scale, : width * generator.network.scale]

    return Published(form, [path], runtime, 0, notes), Check(run, generator.network)


def spandrel_trouble(generator: LoadedGenerator) -> str | None:
    """Say why spandrel 0.4.2, by which ComfyUI and chaiNNer read files, does not read this one rightly, or None."""
    network, options = generator.network, generator.options
    match options["type"]:
        case "rrdbnet" if network.scale == 3:
            return "takes x3 for x2, and gives images of the wrong size"
        case "rrdbnet" if options.get("num_grow_ch", 32) != 32:
            return "cannot read a growth other than 32"
        case "srvgg" if options.get("act_type", "prelu") != "prelu":
            return "knows this network with PReLU only"
        case "srvgg" if options.get("upscale") not in (None, network.scale):
            return "gives the result before it is made smaller"
        case "rrdbnet" | "srvgg" | "spandrel":
            return None
    return f"does not know {options['type']}"


def _write_onnx(generator: LoadedGenerator, name: str, out: Path, half: bool | None) -> tuple[Published, Check]:
    path = out / f"{name}{'-fp16' if half else ''}.onnx"
    onnx.write_onnx(deepcopy(generator.network), generator.channels, path, bool(half))
    text = f"input `lq`, output `sr`, batch, height and width of any size; opset {onnx.OPSET}"
    done = Published("onnx", [path], "onnxruntime", 0, [text])
    return done, Check(lambda lq: onnx.run_onnx(path, lq), generator.network)


def _write_ncnn(generator: LoadedGenerator, name: str, out: Path, half: bool | None) -> tuple[Published, Check]:
    network, (text, data) = generator.network, ncnn_form(generator, half is not False)
    ending = f"x{network.scale}"
    stem = out / (name if name.endswith(ending) else f"{name}-{ending}")
    files = [stem.with_name(f"{stem.name}.param"), stem.with_name(f"{stem.name}.bin")]
    files[0].write_text(text, encoding="utf-8")
    files[1].write_bytes(data)
    reference = deepcopy(network)
    reference.load_state_dict(ncnn.rounded(network.state_dict()) if half is not False else network.state_dict())
    notes = ["blobs `data` and `output`"]
    if (multiple := network.size_multiple) > 1:
        notes.append(f"sides of images must be multiples of {multiple}")
    done = Published("ncnn", files, "ncnn", 0, notes)
    return done, Check(lambda lq: ncnn.run_ncnn(files[0], lq), reference, multiple)


def ncnn_form(generator: LoadedGenerator, half: bool) -> tuple[str, bytes]:
    """Return the generator as the contents of MODEL.param and MODEL.bin. Raises OptionError for one of another kind."""
    kind, network = generator.options["type"], generator.network
    if kind not in ncnn.KINDS:
        raise OptionError(f"ncnn: graphs of {' and '.join(ncnn.KINDS)} are written, this network is {kind}")
    options = {**guess_options(generator), "scale": network.scale}
    return ncnn.ncnn_files(options, network.state_dict(), half)


def guess_options(generator: LoadedGenerator) -> dict[str, Any]:
    """Return all options of a generator, those left at their defaults too."""
    network = generator.network
    if generator.options["type"] == "srvgg":
        defaults = {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 64, "num_conv": 16, "act_type": "prelu"}
        return {**defaults, **generator.options, "upscale": generator.options.get("upscale") or network.scale}
    form = "unshuffle" if network.size_multiple > 1 else "steps"
    return {**guess_network(network.state_dict()), "upsampling": form}


_WRITERS: dict[Form, Callable[[LoadedGenerator, str, Path, bool | None], tuple[Published, Check]]] = {
    "safetensors": lambda generator, name, out, half: _write_weights(generator, name, out, "safetensors"),
    "pth": lambda generator, name, out, half: _write_weights(generator, name, out, "pth"),
    "onnx": _write_onnx,
    "ncnn": _write_ncnn,
}
