"""The page beside published weights: what the network is, what it learned from, and how to use it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from degradations.describe import described
from models.networks.spandrel import SpandrelNetwork
from models.publishing.bundle import Published, told
from models.restoring.generator import LoadedGenerator
from models.weights.zoo import SOURCE, entry_of
from utils.images.files import from_tensor, to_uint8, write_image
from utils.images.sheet import strip
from utils.logging import table
from utils.options import files as option_files
from utils.options.fields import OptionError
from utils.storage.files import replace_text


def write_card(
    out: Path,
    name: str,
    generator: LoadedGenerator,
    done: Sequence[Published],
    photo: Tensor,
    licence: str = "",
    results: str = "",
) -> None:
    """Write README.md, samples.png, and the option file of the run where there is one.

    `licence` is that of the weights, `results` what test.py wrote as results.md.
    """
    _write_samples(out / "samples.png", generator, photo)
    run = _run_of(generator.path)
    replace_text(out / "README.md", card(name, generator, done, licence, results, run))
    if run is not None:
        replace_text(out / "options.yml", yaml.safe_dump(_without_paths(run["options"]), sort_keys=False))


def card(
    name: str,
    generator: LoadedGenerator,
    done: Sequence[Published],
    licence: str,
    results: str,
    run: dict[str, Any] | None,
) -> str:
    """Return the text in Markdown, under a head that model hubs read."""
    network = generator.network
    head = {"license": licence or "unknown", "pipeline_tag": "image-to-image", "tags": ["super-resolution", "pytorch"]}
    kind = generator.options["type"]
    options = ", ".join(f"{key} {value}" for key, value in generator.options.items() if key != "type")
    if isinstance(network, SpandrelNetwork):
        kind, options = network.architecture, "as spandrel builds it"
    count = sum(parameter.numel() for parameter in network.parameters())
    rows = [
        [", ".join(file.name for file in one.files), one.runtime, f"{one.largest:.1e}", "; ".join(one.notes)]
        for one in done
    ]
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {name}",
        f"Enlarges images by {network.scale}: `{kind}` ({options}), {count:,} parameters.",
        "![samples](samples.png)",
        "## Files",
        "Each was run by its own runtime on a photograph at two sizes; the difference is the largest to PyTorch.",
        table(["file", "runtime", "difference", "notes"], rows),
        "## Training",
        _training(run, generator.path),
        *(["## Results", results.strip()] if results else []),
        "## Use",
        _use(done),
        "## Licence",
        licence or "None was stated: ask the author before you use them.",
    ]
    return "\n\n".join(parts) + "\n"


def _training(run: dict[str, Any] | None, path: Path | None) -> str:
    if (entry := entry_of(path)) is not None:
        return f"Released by {SOURCE}; {entry.what}."
    if run is None:
        return "The weights come from a file that does not tell how they were trained."
    options = run["options"]
    caption, steps = described(options["degradation"], options["scale"])
    lines = [[step, kind, f"{prob:g}", values] for step, kind, prob, values in steps]
    stages = ", then ".join(f"`{stage}` ({of['iterations']:,})" for stage, of in options["stages"].items() if of)
    data = ", ".join(f"`{source}`" for source in options["data"]["train"])
    reached = f"{run['iteration']:,} iterations into stage `{run['stage']}`"
    parts = [
        f"Stages (iterations): {stages}; these weights are from {reached}. Data: {data}. See `options.yml`.",
        f"Images of low quality were made of these by `{caption}`" + (", step by step:" if lines else "."),
    ]
    return "\n\n".join([*parts, table(["step", "operation", "probability", "parameters"], lines)] if lines else parts)


def _use(done: Sequence[Published]) -> str:
    """Return a line for each program that one of the files is for."""
    file = {one.form: one.files[0] for one in done}
    lines = []
    for form in ("safetensors", "pth"):
        if form in file:
            name = file[form].name
            lines.append(f"- this framework: `python test.py -i PHOTOS -o OUT --weights {name}`")
            if not any("spandrel" in note for one in done if one.form == form for note in one.notes):
                lines.append(f"- ComfyUI: put `{name}` into `models/upscale_models`; chaiNNer: Load Model")
            break
    if "ncnn" in file:
        stem = file["ncnn"].stem
        lines.append(
            f"- realesrgan-ncnn-vulkan: `-m FOLDER -n {stem}`, with both files in FOLDER; Upscayl: custom models"
        )
    if "onnx" in file:
        text = f'InferenceSession("{file["onnx"].name}").run(["sr"], {{"lq": images}})'
        lines.append(f"- onnxruntime: `{text}`, images (B, C, h, w) float32 RGB in [0, 1]")
    return "\n".join(lines)


def _run_of(path: Path | None) -> dict[str, Any] | None:
    """Return the options, stage and iteration of a checkpoint of ours; None for other files."""
    if path is None or not (meta := path.parent / "meta.json").is_file():
        return None
    try:
        said = json.loads(meta.read_text(encoding="utf-8"))
        options = option_files.load(path.parents[2] / "options.yml")
    except (OSError, ValueError, OptionError):
        return None
    return {"options": options, "stage": said.get("stage", "?"), "iteration": int(said.get("iteration", 0))}


def _without_paths(value: Any) -> Any:  # noqa: ANN401
    """Return an option tree with the last part of each absolute path: folders of a machine are nobody's business."""
    if isinstance(value, dict):
        return {key: _without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_paths(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value


def _write_samples(path: Path, generator: LoadedGenerator, photo: Tensor) -> None:
    """Draw bicubic beside the network, for the middle of the photograph."""
    scale = generator.network.scale
    top, left = ((side - 64) // 2 for side in photo.shape[-2:])
    lq = photo[..., top : top + 64, left : left + 64]
    with torch.inference_mode():
        single = generator.channels == 1
        sr = generator.network(
            lq.transpose(0, 1) if single else lq, **{k: _each(v, single) for k, v in told(generator).items()}
        )
    bicubic = F.interpolate(lq, scale_factor=scale, mode="bicubic").clamp(0, 1)
    sr = (sr.transpose(0, 1) if single else sr).float().clamp(0, 1)
    images = [to_uint8(from_tensor(image[0])) for image in (bicubic, sr)]
    write_image(path, strip(images, ["bicubic", "this network"]))


def _each(value: Any, single: bool) -> Any:  # noqa: ANN401
    """Return what a network is told of an image, once for each channel where it restores them one by one."""
    return value.expand(3, *value.shape[1:]) if single and isinstance(value, Tensor) else value
