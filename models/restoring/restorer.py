"""A generator applied to any image: by what it is told, whole or in tiles, once or over all flips and turns."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from models.network import Network
from models.networks.blocks import mirrored
from models.restoring.back_projection import BackProjection
from models.restoring.generator import LoadedGenerator
from models.restoring.nonblind import Assumption, extended
from models.restoring.tiling import Blended, Context, Rows, TileMode, Tiling, Whole, restored_bands
from utils.machine import need_compiler
from utils.options.fields import OptionError

WHOLE_PIXELS = 512 * 512
"""Low-quality images with more pixels are restored in tiles unless `tile` says otherwise."""
AUTO_TILE = 384

Engine = Literal["torch", "openvino", "ncnn"]
Precision = Literal["fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


# --- ways of being told -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """A network as a function of parts (n, C, h, w) of an image: padded to what it takes, told the same of each."""

    network: Network
    device: torch.device
    scale: int
    told: Mapping[str, Any]

    def __call__(self, part: Tensor) -> Tensor:
        each = {k: v.expand(len(part), *v.shape[1:]) if isinstance(v, Tensor) else v for k, v in self.told.items()}
        height, width = part.shape[-2:]
        padded = mirrored(part, -height % self.network.size_multiple, -width % self.network.size_multiple)
        sr = self.network(padded.to(self.device, memory_format=torch.channels_last), **each)
        return sr[..., : height * self.scale, : width * self.scale]


@dataclass(frozen=True)
class Blind:
    """A network that is told no blur: it may compute in half precision, and see each part in all its turns."""

    call: Call
    dtype: torch.dtype
    turned: bool

    def __call__(self, part: Tensor) -> Tensor:
        half = self.dtype is not torch.float32
        with torch.autocast(self.call.device.type, self.dtype) if half else nullcontext():
            return ensemble(self.call, part) if self.turned else self.call(part)


@dataclass(frozen=True)
class ToldKernel:
    """A network that is told a kernel and takes images as periodic, in fp32. An image that comes with its kernel is, as
    a whole (`periodic` is its size); all else is continued until it is."""

    call: Call
    periodic: tuple[int, ...] | None

    def __call__(self, part: Tensor) -> Tensor:
        if part.shape[-2:] == self.periodic:
            return self.call(part)
        height, width = (side * self.call.scale for side in part.shape[-2:])
        return self.call(extended(part, self.call.scale, self.call.told["kernel"].shape[-1]))[..., :height, :width]


# --- images of any size -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Restorer:
    """Apply a generator to low-quality images of any size, with constant memory on the device where tiled.

    Networks that are told a kernel take images as periodic. Images that come with their kernel are; tiles, padded
    images and those whose kernel is assumed are not, and go through `extended`. These networks compute in fp32 under
    any `precision`, since a half one would round the image itself in each round of their iteration.

    Attributes:
        tile: side of the tiles; 0: never tiled; None: as the network is suited, or else by `AUTO_TILE` above
            `WHOLE_PIXELS`.
        overlap, tile_mode: `blend` or `context`, see `Blended` and `Context` in tiling. None: a quarter of the tile, up
            to 64, which brings x4plus within 59 dB of the whole image (32: 45 dB); half as much as context.
        pre_pad: mirrored pixels that the network sees beyond the bottom and the right of the image.
        self_ensemble: average over the eight flips and turns of the image (of each tile), at eight times the cost.
        assume: what a non-blind network is told where a call does not say.
        batch: tiles of one size in a call of the network; None: as suits the device.
        compile: torch.compile of the network; takes a minute, and again where the size of images changes.
        back_projection: corrects the result (of each tile) by its input.

    Raises:
        OptionError: for an ensemble, a back-projection or an assumption that the network cannot be given; for `compile`
            without a compiler.
    """

    generator: LoadedGenerator
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    precision: Precision = "fp32"
    tile: int | None = None
    overlap: int | None = None
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
            need_compiler(self.device, "--compile")
            network.compile()

    @property
    def _on_gpu(self) -> bool:
        return self.device.type != "cpu"

    @property
    def additions(self) -> list[str]:
        """Say what is done to the network's results, for a table of numbers."""
        projection = [] if self.back_projection is None else [str(self.back_projection)]
        return ["the mean over the 8 flips and turns"] * self.self_ensemble + projection

    @property
    def scale(self) -> int:
        """Return the factor by which results are larger, where a call does not say."""
        return self.generator.network.scale

    @property
    def conditions(self) -> tuple[str, ...]:
        """Name what the network takes besides the image."""
        return self.generator.network.conditions

    def told(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the network is told of an image: what is `given`, the rest by `assume`. Raises OptionError."""
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
        """Restore (1, 3, h, w) in [0, 1] to (1, 3, h·scale, w·scale), float32 on the CPU, not clipped.

        `conditions` may hold `kernel` (1, k, k), `sigma` (1,) and `scale`. A network for one channel is applied to
        each of the three. Raises OptionError for a missing condition.
        """
        return torch.cat(list(self.bands(lq, conditions)), -2)

    def bands(self, lq: Tensor | Rows, conditions: Mapping[str, Any] | None = None) -> Iterator[Tensor]:
        """Restore as a call does, but give the result in bands (1, 3, n, w·scale) from top to bottom, each when done.

        `lq` may also be uint8 or uint16, over the whole of its range; of a tiled image nothing larger is made then
        than a row of tiles. It may be read meanwhile, if `takes_rows`. Raises ValueError where a result is not finite.
        """
        way, tiling, single = self._way(lq, conditions or {}), self._tiling(lq), self.generator.channels == 1

        @torch.inference_mode()
        def apply(part: Tensor) -> Tensor:
            part = unit_range(part)
            sr = way(part)
            return sr if self.back_projection is None else self.back_projection(sr.float(), part.to(sr.device))

        image = lq
        if isinstance(lq, Tensor):
            image = mirrored(lq.transpose(0, 1) if single else lq, self.pre_pad, self.pre_pad)
        bands = restored_bands(
            apply,
            image,
            way.call.scale,
            tiling,
            # an image that is not cut is padded as it is turned
            size_multiple=1 if isinstance(tiling, Whole) else self.generator.network.size_multiple,
            batch=self._batch(tiling),
            threaded=self._on_gpu,
        )
        left, width = (side * way.call.scale for side in lq.shape[-2:])
        for band in bands:
            if not torch.isfinite(band).all():
                text = f"the network's values are not finite in {self.precision}"
                other = "" if self.precision == "fp32" else "--precision bf16 or fp32, or "
                raise ValueError(f"{text}; try {other}a checkpoint from before its run diverged")
            if left > 0:
                yield (band.transpose(0, 1) if single else band)[..., :left, :width]
            left -= band.shape[-2]

    @property
    def takes_rows(self) -> bool:
        """Tell whether large images can be read while they are restored: in tiles, channels together, not padded."""
        return self.tile != 0 and self.pre_pad == 0 and self.generator.channels == 3

    def _way(self, lq: Tensor | Rows, given: Mapping[str, Any]) -> Blind | ToldKernel:
        """Choose how the network is applied to parts of this image."""
        told = {k: v.to(self.device) if isinstance(v, Tensor) else v for k, v in self.told(given).items()}
        call = Call(self.generator.network, self.device, given.get("scale", self.scale), told)
        if "kernel" not in told:
            return Blind(call, DTYPES[self.precision], self.self_ensemble)
        return ToldKernel(call, lq.shape[-2:] if "kernel" in given else None)

    def _tiling(self, image: Tensor | Rows) -> Tiling:
        """Cut where asked to, or where the image is large."""
        height, width = image.shape[-2:]
        tile, suited = self.tile, self.generator.network.tile
        if tile is None:
            tile = (suited or AUTO_TILE) if height * width > (suited**2 or WHOLE_PIXELS) else 0
        if tile == 0:
            return Whole()
        shared = min(64, tile // 4) if self.overlap is None else self.overlap
        if self.tile_mode == "blend":
            return Blended(tile, shared)
        return Context(tile, shared // 2 if self.overlap is None else shared)

    def _batch(self, tiling: Tiling) -> int:
        """Count tiles in a call: a CPU is no faster with more than one; a GPU gets the pixels of an image untiled."""
        if self.batch is not None or isinstance(tiling, Whole) or not self._on_gpu:
            return self.batch or 1
        return max(1, WHOLE_PIXELS // tiling.seen**2)


def ensemble(restore: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Average the results of the eight flips and turns, each turned back."""
    total: Tensor | None = None
    for turns in range(4):
        for flip in (False, True):
            turned = torch.rot90(image, turns, (-2, -1))
            sr = restore(turned.flip(-1) if flip else turned)
            back = torch.rot90(sr.flip(-1) if flip else sr, -turns, (-2, -1))
            total = back if total is None else total + back
    assert total is not None
    return total / 8


def unit_range(pixels: Tensor) -> Tensor:
    """Return float32 in [0, 1], from floats there already, uint8 or uint16."""
    return pixels if pixels.is_floating_point() else pixels.float() / torch.iinfo(pixels.dtype).max
