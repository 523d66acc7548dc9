"""From a weight file to restored images: finds the network that a file belongs to, and applies it to any image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
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
from models.networks.blocks import mirrored
from models.restoring.back_projection import BackProjection
from models.restoring.nonblind import Assumption, extended
from models.restoring.tiling import TileMode, restored_bands
from models.restoring.transparency import filled_from_within, put_back_hidden
from models.weights.files import OUR_FILES
from models.weights.load import Prefer, guess_network, load_weights, read_weights
from utils.images.files import from_tensor, to_uint8, to_uint16
from utils.options.fields import OptionError
from utils.storage import checkpoint

WHOLE_PIXELS = 512 * 512
"""Low-quality images with more pixels are restored in tiles unless `tile` says otherwise."""
AUTO_TILE = 384

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
        overlap, tile_mode: as in `restored_bands`.
        pre_pad: mirrored pixels that the network sees beyond the bottom and the right of the image.
        self_ensemble: average over the eight flips and turns of the image (of each tile), at eight times the cost.
        assume: what a non-blind network is told where a call does not say.
        batch: tiles of one size in a call of the network; None: as suits the device.
        compile: torch.compile of the network; takes a minute, and again where the size of images changes.
        back_projection: corrects the result (of each tile) by its input.

    Raises:
        OptionError: for an ensemble, a back-projection or an assumption that the network cannot be given.
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
    batch: int | None = None
    compile: bool = False
    back_projection: BackProjection | None = None

    def __post_init__(self) -> None:
        if self.self_ensemble and "kernel" in self.conditions:
            raise OptionError(
                "--self-ensemble: this network is given a kernel, which would have to turn with the image"
            )
        if self.back_projection is not None and "kernel" in self.conditions:
            raise OptionError("--back-projection: it assumes bicubic's kernel, and this network is given another")
        if self.assume is not None and "kernel" not in self.conditions:
            raise OptionError("--kernel-width, --kernel, --noise-level: this network is blind, it takes neither")
        network = self.generator.network.to(self.device)
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        if self.compile:
            network.compile()

    @property
    def _on_gpu(self) -> bool:
        return self.device.type != "cpu"

    @property
    def additions(self) -> list[str]:
        """What is done to the network's results, in words that a table of numbers needs."""
        projection = [] if self.back_projection is None else [str(self.back_projection)]
        return ["the mean over the 8 flips and turns"] * self.self_ensemble + projection

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

    def __call__(self, lq: Tensor, conditions: Mapping[str, Any] | None = None) -> Tensor:
        """Restores (1, 3, h, w) in [0, 1]; returns (1, 3, h·scale, w·scale), float32 on the CPU, not clipped.

        `conditions` may hold `kernel` (1, k, k), `sigma` (1,) and `scale`. A network for one channel is applied to
        each of the three. Raises OptionError for a missing condition.
        """
        return torch.cat(list(self.bands(lq, conditions)), -2)

    def bands(self, lq: Tensor, conditions: Mapping[str, Any] | None = None) -> Iterator[Tensor]:
        """As a call, but gives the result in bands (1, 3, n, w·scale) from top to bottom, each as soon as it is done.

        `lq` may also be uint8 or uint16, over the whole of its range; of a tiled image nothing larger is made then
        than a row of tiles. Raises ValueError where a result is not finite.
        """
        given, single, tile = conditions or {}, self.generator.channels == 1, self._tile(lq)
        told = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in self.told(given).items()}
        kernel: Tensor | None = told.get("kernel")
        scale: int = given.get("scale", self.scale)
        network, dtype = self.generator.network, torch.float32 if kernel is not None else _DTYPES[self.precision]

        def run(part: Tensor) -> Tensor:
            each = {k: v.expand(len(part), *v.shape[1:]) if isinstance(v, Tensor) else v for k, v in told.items()}
            height, width = part.shape[-2:]
            whole = mirrored(part, -height % network.size_multiple, -width % network.size_multiple)
            sr = network(whole.to(self.device, memory_format=torch.channels_last), **each)
            return sr[..., : height * scale, : width * scale]

        def apply(part: Tensor) -> Tensor:
            part = _unit(part)
            half = nullcontext() if dtype is torch.float32 else torch.autocast(self.device.type, dtype)
            with torch.inference_mode():
                with half:
                    if kernel is None or ("kernel" in given and part.shape[-2:] == lq.shape[-2:]):
                        sr = ensemble(run, part) if self.self_ensemble else run(part)
                    else:
                        sr = run(extended(part, scale, kernel.shape[-1]))
                        sr = sr[..., : part.shape[-2] * scale, : part.shape[-1] * scale]
                return sr if self.back_projection is None else self.back_projection(sr.float(), part.to(sr.device))

        image = mirrored(lq.transpose(0, 1) if single else lq, self.pre_pad, self.pre_pad)
        multiple = 1 if tile is None else network.size_multiple  # an image that is not cut is padded as it is turned
        how = (tile, self.overlap, multiple, self.tile_mode, self._batch(tile), self._on_gpu)
        left, width = (side * scale for side in lq.shape[-2:])
        for band in restored_bands(apply, image, scale, *how):
            if not torch.isfinite(band).all():
                text = f"the network's values are not finite in {self.precision}"
                raise ValueError(f"{text}; try --precision bf16 or fp32")
            if left > 0:
                yield (band.transpose(0, 1) if single else band)[..., :left, :width]
            left -= band.shape[-2]

    def _tile(self, image: Tensor) -> int | None:
        height, width = image.shape[-2:]
        if self.tile is None:
            return AUTO_TILE if height * width > WHOLE_PIXELS else None
        return self.tile or None

    def _batch(self, tile: int | None) -> int:
        """Tiles in a call. A CPU is no faster with more than one; a GPU gets no more pixels than an image untiled."""
        if self.batch is not None or tile is None or not self._on_gpu:
            return self.batch or 1
        return max(1, WHOLE_PIXELS // (tile + 2 * self.overlap * (self.tile_mode == "context")) ** 2)


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

    Colours that transparent pixels hide stay out of those that are seen: the network gets an image that is filled from
    within, and what is wholly transparent in the result has its own colours again.

    Only the image and the result are held as a whole, as integers, where `outscale` is the network's own scale.

    Returns:
        (H, W) gray, (H, W, 3) or (H, W, 4) with alpha (also of a gray image: OpenCV writes no gray with alpha), in the
        dtype of `image`.
    """
    factor = restorer.scale if outscale is None else outscale
    size = tuple(max(1, int(side * factor + 1e-6)) for side in image.shape[:2])
    own_size = size == tuple(side * restorer.scale for side in image.shape[:2])

    def restored(pixels: Tensor) -> Iterable[Tensor]:
        bands = restorer.bands(pixels)
        return bands if own_size else [_resized(torch.cat(list(bands), -2), size)]

    result = np.empty((*size, (1 if gray else 3) if alpha is None else 4), image.dtype)
    filled = image if alpha is None else filled_from_within(image, alpha)
    _fill(result[..., :3], restored(torch.from_numpy(filled).permute(2, 0, 1)[None]), luma=gray)
    if alpha is not None:
        by_network, opacity = alpha_by == "network", torch.from_numpy(alpha)
        bands = restored(opacity.expand(1, 3, -1, -1)) if by_network else [_resized(_unit(opacity[None, None]), size)]
        _fill(result[..., 3:], bands, luma=by_network)
        put_back_hidden(result, image, filled, alpha)
    return result[..., 0] if result.shape[2] == 1 else result


def _fill(out: np.ndarray, bands: Iterable[Tensor], luma: bool) -> None:
    """Writes bands (1, C, n, w), from top to bottom, into (h, w, D) of uint8 or uint16."""
    quantise, row = to_uint16 if out.dtype == np.uint16 else to_uint8, 0
    for band in bands:
        values = quantise(from_tensor(band[0]))
        out[row : row + len(values)] = _luma(values)[..., None] if luma else values
        row += len(values)


def _unit(pixels: Tensor) -> Tensor:
    """float32 in [0, 1], from floats there already, uint8 or uint16."""
    return pixels if pixels.is_floating_point() else pixels.float() / torch.iinfo(pixels.dtype).max


def _resized(image: Tensor, size: tuple[int, ...]) -> Tensor:
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image.clamp(0, 1), size=size, mode="bicubic", antialias=True)


def _luma(rgb: np.ndarray) -> np.ndarray:
    return np.rint(rgb @ np.array([0.299, 0.587, 0.114])).astype(rgb.dtype)
