"""From a weight file to restored images: finds the network that a file belongs to, and applies it to any image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from models.network import NETWORKS, Network
from models.weights import Prefer, guess_network, load_weights, read_weights
from utils import checkpoint
from utils.fields import OptionError
from utils.image import from_tensor, image_files, is_image_name, to_tensor, to_uint8, to_uint16
from utils.resize import imresize
from utils.tiling import restore_tiled

WHOLE_PIXELS = 512 * 512
"""Low-quality images with more pixels are restored in tiles unless `tile` says otherwise."""
AUTO_TILE = 384

OUR_FILES: dict[Prefer, str] = {"ema": "network_g_ema.safetensors", "raw": "network_g.safetensors"}

Precision = Literal["fp32", "bf16", "fp16"]
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


# --- weights ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Generator:
    """A generator with its weights, where they come from, and the options it was built with."""

    network: Network
    path: Path | None
    options: dict[str, Any]

    @property
    def channels(self) -> int:
        """Channels of its input: 1 or 3."""
        return int(self.options.get("num_in_ch", 3))


def load_generator(path: Path, prefer: Prefer = "ema", otherwise: Mapping[str, Any] | None = None) -> Generator:
    """Builds and fills the generator that a weight file belongs to.

    Args:
        path: a weight file of ours, which says what network it is, or a published one, whose keys and shapes tell.
        prefer: which weights to take from a published file that holds averaged and raw ones.
        otherwise: network options for a file that does not tell.

    Raises:
        OptionError: naming the file, if it cannot be read, does not tell its network, or holds no generator.
    """
    state = read_weights(path, prefer)
    options = checkpoint.read_weights(path)[1].get("network") if path.suffix == ".safetensors" else None
    try:
        if options is None:
            options = _guess(state, otherwise)
        network = NETWORKS.build(options)
    except OptionError as error:
        raise OptionError(f"{path}: {error}") from error
    if network.role != "generator":
        raise OptionError(f"{path}: holds a discriminator ({options['type']}), expected a generator")
    load_weights(network, state)
    return Generator(network.eval().requires_grad_(False), path, dict(options))


def _guess(state: Mapping[str, Tensor], otherwise: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        return guess_network(state)
    except OptionError as error:
        if otherwise is None:
            raise OptionError(f"{error} (--opt FILE)") from error
        return dict(otherwise)


def bicubic_generator(scale: int) -> Generator:
    """The baseline without weights."""
    options = {"type": "bicubic", "scale": scale}
    return Generator(NETWORKS.build(options), None, options)


def weight_files(path: Path, weights_of: Literal["ema", "raw", "both"]) -> list[Path]:
    """The weight files that a path means: itself, or averaged and raw weights in a checkpoint folder of ours."""
    if not path.is_dir():
        return [path]
    wanted: tuple[Prefer, ...] = ("ema", "raw") if weights_of == "both" else (weights_of,)
    files = [path / OUR_FILES[prefer] for prefer in wanted]
    if missing := [file.name for file in files if not file.is_file()]:
        raise OptionError(
            f"{path}: this folder has no {' and no '.join(missing)}; expected a weight file, or a checkpoint folder "
            "such as runs/NAME/checkpoints/psnr_00001200"
        )
    return files


def checkpoint_names(paths: list[Path]) -> list[str]:
    """A short name for each weight file, unique: `psnr_00001200/ema` for ours, the file's name for others."""
    parts = []
    for path in paths:
        own = {file: prefer for prefer, file in OUR_FILES.items()}.get(path.name)
        folders = list(path.absolute().parent.parts[1:])
        parts.append([*folders[:-1], f"{folders[-1]}/{own}"] if own and folders else [*folders, path.stem])
    depths = [1] * len(paths)
    while True:
        names = ["/".join(of_one[-depth:]) for of_one, depth in zip(parts, depths, strict=True)]
        longer = [d + (names.count(n) > 1 and d < len(p)) for n, d, p in zip(names, depths, parts, strict=True)]
        if longer == depths:
            break
        depths = longer
    if len(set(names)) < len(names):
        raise OptionError(f"--weights: the same file is given twice: {', '.join(map(str, paths))}")
    return names


# --- images ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Restorer:
    """Applies a generator to low-quality images of any size, with constant memory on the device where tiled.

    Attributes:
        tile: side of the tiles; 0: never tiled; None: tiled by `AUTO_TILE` above `WHOLE_PIXELS`.
        self_ensemble: average over the eight flips and turns of the image, at eight times the cost.
    """

    generator: Generator
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "fp32"
    tile: int | None = None
    overlap: int = 32
    self_ensemble: bool = False

    def __post_init__(self) -> None:
        self.generator.network.to(self.device)
        if self.self_ensemble and "kernel" in self.generator.network.conditions:
            raise OptionError(
                "--self-ensemble: this network is given a kernel, which would have to turn with the image"
            )

    @property
    def scale(self) -> int:
        """The factor by which results are larger."""
        return self.generator.network.scale

    @property
    def conditions(self) -> tuple[str, ...]:
        """What the network takes besides the image."""
        return self.generator.network.conditions

    @torch.inference_mode()
    def __call__(self, lq: Tensor, conditions: Mapping[str, Tensor] | None = None) -> Tensor:
        """Restores (1, 3, h, w) in [0, 1]; returns (1, 3, h·scale, w·scale), float32 on the CPU, not clipped.

        A network for one channel is applied to each of the three. Raises OptionError for a missing condition.
        """
        given = {name: value.to(self.device) for name, value in (conditions or {}).items()}
        if missing := [name for name in self.conditions if name not in given]:
            raise OptionError(f"the network needs {' and '.join(missing)} with each image, which are not known here")
        network, dtype = self.generator.network, _DTYPES[self.precision]

        def apply(part: Tensor) -> Tensor:
            with nullcontext() if dtype is torch.float32 else torch.autocast(self.device.type, dtype):
                return network(part.to(self.device), **given)

        def restore(image: Tensor) -> Tensor:
            tile = self._tile(image)
            return restore_tiled(apply, image, self.scale, tile, self.overlap, network.size_multiple)

        single = self.generator.channels == 1
        image = lq.transpose(0, 1) if single else lq
        sr = ensemble(restore, image) if self.self_ensemble else restore(image)
        # The result must be an ordinary tensor: metrics and writers take views of it and work in place.
        return (sr.transpose(0, 1) if single else sr).clone()

    def _tile(self, image: Tensor) -> int | None:
        height, width = image.shape[-2:]
        if self.tile is None:
            return AUTO_TILE if height * width > WHOLE_PIXELS else None
        return self.tile or None


def ensemble(restore: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """The mean of the results of the eight flips and turns, each turned back."""
    total: Tensor | None = None
    for turns in range(4):
        for flip in (False, True):
            turned = torch.rot90(image, turns, (-2, -1))
            sr = restore(turned.flip(-1) if flip else turned)
            back = torch.rot90(sr.flip(-1) if flip else sr, -turns, (-2, -1))
            total = back if total is None else total + back
    assert total is not None
    return total / 8


def restore_array(
    restorer: Restorer,
    image: np.ndarray,
    alpha: np.ndarray | None = None,
    gray: bool = False,
    alpha_by: Literal["resize", "network"] = "resize",
) -> np.ndarray:
    """Restores an image as it was read, in its own depth and form.

    Args:
        image: (h, w, 3), uint8 or uint16.
        alpha: (h, w) of the same dtype; resized by MATLAB's bicubic, or restored by the network as a gray image.
        gray: whether the three channels are one; the result is luma then.

    Returns:
        (H, W) gray, (H, W, 3) or (H, W, 4) with alpha (also of a gray image), in the dtype of `image`.
    """
    quantise = to_uint16 if image.dtype == np.uint16 else to_uint8
    colour = quantise(from_tensor(restorer(to_tensor(image)[None])[0]))
    if gray:
        colour = _luma(colour)
    if alpha is None:
        return colour
    opacity = to_tensor(np.repeat(alpha[..., None], 3, axis=2))[None]
    larger = imresize(opacity, scale=restorer.scale) if alpha_by == "resize" else restorer(opacity)
    rgb = np.repeat(colour[..., None], 3, axis=2) if gray else colour
    return np.concatenate([rgb, _luma(quantise(from_tensor(larger[0])))[..., None]], axis=2)


def _luma(rgb: np.ndarray) -> np.ndarray:
    return np.rint(rgb @ np.array([0.299, 0.587, 0.114])).astype(rgb.dtype)


# --- files -----------------------------------------------------------------------------------------------------


def restoration_targets(inputs: Sequence[Path], out: Path, suffix: str = "", ext: str = "png") -> dict[Path, Path]:
    """Where the result of each image goes: `out` alone for a single image, else below it, in the inputs' structure.

    Where names differ by their endings alone (a.png, a.jpg), the ending becomes a part of the name (a_png, a_jpg).
    Raises OptionError if a result would replace an input or another result, or a folder holds no images.
    """
    if len(inputs) == 1 and not inputs[0].is_dir() and is_image_name(out.name) and not out.is_dir():
        targets = {inputs[0]: out}
    else:
        places = {source: place for path in inputs for source, place in _images_of(path, out)}
        plain = [place.with_suffix("") for place in places.values()]
        targets = {}
        for (source, place), stem in zip(places.items(), plain, strict=True):
            name = stem.name if plain.count(stem) == 1 else place.name.replace(".", "_")
            targets[source] = out / place.with_name(f"{name}{suffix}.{ext}")
    known, taken = {_identity(source) for source in targets}, {}
    for source, target in targets.items():
        if target.exists() and _identity(target) in known:
            raise OptionError(
                f"{target}: the result of {source} would replace an input; choose another -o or a --suffix"
            )
        if target in taken:
            raise OptionError(f"{target}: would be the result of {taken[target]} and of {source}; restore them apart")
        taken[target] = source
    return targets


def _images_of(path: Path, out: Path) -> list[tuple[Path, Path]]:
    """The images of an input, with their places below `out`. What lies in `out` already is no input."""
    if not path.is_dir():
        return [(path, Path(path.name))]
    results = out.resolve() if out.resolve() != path.resolve() else None
    found = [file for file in image_files(path) if results is None or not file.resolve().is_relative_to(results)]
    if not found:
        raise OptionError(f"{path}: holds no images")
    return [(file, file.relative_to(path)) for file in found]


def _identity(path: Path) -> tuple[int, int] | str:
    """Equal for two paths to one file, through links too."""
    return (path.stat().st_dev, path.stat().st_ino) if path.exists() else str(path)
