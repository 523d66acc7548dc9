"""From a weight file to restored images: finds the network that a file belongs to, and applies it to any image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.network import NETWORKS, Network
from models.nonblind import Assumption, extended
from models.weights import Prefer, guess_network, load_weights, read_weights
from utils import checkpoint
from utils.fields import OptionError
from utils.image import (
    ALPHA_SUFFIXES,
    DEEP_SUFFIXES,
    from_tensor,
    image_files,
    is_image_name,
    read_image_alpha,
    to_tensor,
    to_uint8,
    to_uint16,
    write_image,
)
from utils.logging import Console
from utils.tiling import TileMode, mirrored, restore_tiled

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
        return int(self.options.get("num_in_ch", self.options.get("out_nc", 3)))


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


def interpolate(generator: Generator, path: Path, strength: float, prefer: Prefer = "ema") -> Generator:
    """Mixes the weights of two files of one network (deep network interpolation, Wang et al., CVPR 2019).

    Each weight is strength·(the generator's) + (1 - strength)·(the file's): 1 leaves the generator as it is.

    Raises:
        OptionError: if the file cannot be read, or its names or shapes are not those of the generator.
    """
    other = deepcopy(generator.network)
    load_weights(other, path, prefer=prefer)
    pairs = zip(generator.network.state_dict().items(), other.state_dict().values(), strict=True)
    other.load_state_dict({k: a * strength + b * (1 - strength) if a.is_floating_point() else a for (k, a), b in pairs})
    return Generator(other, generator.path, generator.options)


def bicubic_generator(scale: int) -> Generator:
    """The baseline without weights."""
    options = {"type": "bicubic", "scale": scale}
    return Generator(NETWORKS.build(options), None, options)


def at_scale(generator: Generator, scale: int) -> Generator:
    """The generator with this nominal scale. Raises OptionError if it has another one and takes no other."""
    if scale == generator.network.scale:
        return generator
    if "scale" not in generator.network.conditions:
        found = generator.network.scale
        raise OptionError(f"--scale {scale}: this network has scale {found} and no other; see --outscale")
    options = {**generator.options, "scale": scale}
    network = NETWORKS.build(options)
    network.load_state_dict(generator.network.state_dict())
    return Generator(network.eval().requires_grad_(False), generator.path, options)


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

    Networks that are told a kernel take images as periodic. Images that come with their kernel are; tiles, padded
    images and those whose kernel is assumed are not, and go through `extended`. These networks compute in fp32 under
    any `precision`, since a half one would round the image itself in each round of their iteration.

    Attributes:
        tile: side of the tiles; 0: never tiled; None: tiled by `AUTO_TILE` above `WHOLE_PIXELS`.
        overlap, tile_mode: as in `restore_tiled`.
        pre_pad: mirrored pixels that the network sees beyond the bottom and the right of the image.
        self_ensemble: average over the eight flips and turns of the image, at eight times the cost.
        assume: what a non-blind network is told where a call does not say.

    Raises:
        OptionError: for an ensemble or an assumption that the network cannot be given.
    """

    generator: Generator
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "fp32"
    tile: int | None = None
    overlap: int = 32
    self_ensemble: bool = False
    tile_mode: TileMode = "blend"
    pre_pad: int = 0
    assume: Assumption | None = None

    def __post_init__(self) -> None:
        self.generator.network.to(self.device)
        if self.self_ensemble and "kernel" in self.conditions:
            raise OptionError(
                "--self-ensemble: this network is given a kernel, which would have to turn with the image"
            )
        if self.assume is not None and "kernel" not in self.conditions:
            raise OptionError("--kernel-width, --kernel, --noise-level: this network is blind, it takes neither")

    @property
    def scale(self) -> int:
        """The factor by which results are larger, where a call does not say."""
        return self.generator.network.scale

    @property
    def conditions(self) -> tuple[str, ...]:
        """What the network takes besides the image."""
        return self.generator.network.conditions

    def told(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What the network is told besides the image: what is `given`, the rest by `assume`. Raises OptionError."""
        scale = given.get("scale", self.scale)
        assumed = {} if self.assume is None else self.assume.conditions(scale)
        known = {"scale": scale, **assumed, **given}
        if missing := [name for name in self.conditions if name not in known]:
            raise OptionError(
                f"the network needs {' and '.join(missing)} with each image, which are not known here; say what to "
                "assume: --kernel-width W or --kernel FILE, and --noise-level N (in an option file: assume)"
            )
        return {name: known[name] for name in self.conditions}

    @torch.inference_mode()
    def __call__(self, lq: Tensor, conditions: Mapping[str, Any] | None = None) -> Tensor:
        """Restores (1, 3, h, w) in [0, 1]; returns (1, 3, h·scale, w·scale), float32 on the CPU, not clipped.

        `conditions` may hold `kernel` (1, k, k), `sigma` (1,) and `scale`. A network for one channel is applied to
        each of the three. Raises OptionError for a missing condition.
        """
        given, single = conditions or {}, self.generator.channels == 1
        image = lq.transpose(0, 1) if single else lq
        told = {
            name: value.to(self.device).expand(len(image), *value.shape[1:]) if isinstance(value, Tensor) else value
            for name, value in self.told(given).items()
        }
        scale: int = given.get("scale", self.scale)
        kernel: Tensor | None = told.get("kernel")
        network, dtype = self.generator.network, torch.float32 if kernel is not None else _DTYPES[self.precision]

        def apply(part: Tensor) -> Tensor:
            with nullcontext() if dtype is torch.float32 else torch.autocast(self.device.type, dtype):
                if kernel is None or ("kernel" in given and part.shape[-2:] == lq.shape[-2:]):
                    return network(part.to(self.device), **told)
                sr = network(extended(part, scale, kernel.shape[-1]).to(self.device), **told)
                return sr[..., : part.shape[-2] * scale, : part.shape[-1] * scale]

        def restore(image: Tensor) -> Tensor:
            padded, tile = mirrored(image, self.pre_pad, self.pre_pad), self._tile(image)
            sr = restore_tiled(apply, padded, scale, tile, self.overlap, network.size_multiple, self.tile_mode)
            return sr[..., : image.shape[-2] * scale, : image.shape[-1] * scale]

        sr = ensemble(restore, image) if self.self_ensemble else restore(image)
        if not torch.isfinite(sr).all():
            raise ValueError(f"the network's values are not finite in {self.precision}; try --precision bf16 or fp32")
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
    outscale: float | None = None,
) -> np.ndarray:
    """Restores an image as it was read, in its own depth and form.

    Args:
        image: (h, w, 3), uint8 or uint16.
        alpha: (h, w) of the same dtype; resized, or restored by the network as a gray image.
        gray: whether the three channels are one; the result is luma then.
        outscale: factor by which the result is larger than the image (sides rounded down, at least 1 pixel) where it
            is not to be the network's. Resized before rounding to integers, by a bicubic that averages when it
            shrinks: Real-ESRGAN's Lanczos filter on rounded values does not, and fine texture turns into stripes.

    Returns:
        (H, W) gray, (H, W, 3) or (H, W, 4) with alpha (also of a gray image: OpenCV writes no gray with alpha), in the
        dtype of `image`.
    """
    quantise = to_uint16 if image.dtype == np.uint16 else to_uint8
    factor = restorer.scale if outscale is None else outscale
    height, width = (max(1, int(side * factor + 1e-6)) for side in image.shape[:2])
    colour = quantise(from_tensor(_resized(restorer(to_tensor(image)[None]), height, width)[0]))
    if gray:
        colour = _luma(colour)
    if alpha is None:
        return colour
    opacity = to_tensor(np.repeat(alpha[..., None], 3, axis=2))[None]
    larger = _resized(opacity if alpha_by == "resize" else restorer(opacity), height, width)
    rgb = np.repeat(colour[..., None], 3, axis=2) if gray else colour
    return np.concatenate([rgb, _luma(quantise(from_tensor(larger[0])))[..., None]], axis=2)


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    if image.shape[-2:] == (height, width):
        return image
    return F.interpolate(image.clamp(0, 1), size=(height, width), mode="bicubic", antialias=True)


def _luma(rgb: np.ndarray) -> np.ndarray:
    return np.rint(rgb @ np.array([0.299, 0.587, 0.114])).astype(rgb.dtype)


# --- files -----------------------------------------------------------------------------------------------------


def restore_file(
    source: Path,
    target: Path,
    restorer: Restorer,
    console: Console,
    alpha_by: Literal["resize", "network"] = "resize",
    outscale: float | None = None,
) -> bool:
    """Restores an image file by `restore_array`. If anything fails, says what of which file, and writes nothing."""
    try:
        image, alpha, gray = read_image_alpha(source)
        deep, kind = image.dtype.itemsize > 1, target.suffix.lower()
        if (deep and kind not in DEEP_SUFFIXES) or (alpha is not None and kind not in ALPHA_SUFFIXES):
            found = "16 bits" if deep else "alpha"
            raise ValueError(f"{source}: has {found}, which {kind} cannot hold; use --ext png")
        write_image(target, restore_array(restorer, image, alpha, gray, alpha_by, outscale))
    except torch.OutOfMemoryError:
        console.error(f"{source}: the device has too little memory for it; use --tile, such as --tile 256")
    except (OSError, ValueError, RuntimeError) as error:
        console.error(str(error) if str(source) in str(error) else f"{source}: {error}")
    else:
        return True
    return False


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
