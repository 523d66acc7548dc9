"""Prepares image folders for training: `python -m data.prepare COMMAND`, where the command is check, tiles, multiscale,
lmdb, shards, index, match, kernels, noise or hr (each has `--help`)."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

from data.prepare.check import check
from data.prepare.convert import convert
from data.prepare.hr import make_hr
from data.prepare.kernels import collect_kernels
from data.prepare.lmdb import write_database
from data.prepare.match import match
from data.prepare.multiscale import Multiscale
from data.prepare.noise import collect_noise
from data.prepare.section import CleanHr, NoisePatches
from data.prepare.shards import index_tars, make_shards
from data.prepare.tiles import Tiles
from data.prepare.work import cores
from degradations.kernelgan.settings import KernelGAN
from utils.logging import Console
from utils.options.arguments import Arg, parse_command
from utils.options.fields import Bytes, Count, OptionError, PositiveInt
from utils.processes import distributed
from utils.processes.distributed import AgreedError

EPILOG = """A command that was stopped goes on when it is given again. The exit status is 1 if a file could not be
read; each such file is named, and the others are done."""

Source = Annotated[Path, Arg("SRC", positional=True)]
Pool = Annotated[Path, Arg("POOL")]
Workers = Annotated[Count, Arg("N")]


class Command(Protocol):
    """A command with its arguments."""

    def run(self, console: Console) -> int:
        """Do it; return how many files could not be read."""
        ...


@dataclass(frozen=True)
class Check:
    """Names files that are unreadable, truncated, tiny or duplicate; tables of sizes, modes and depths."""

    sources: Annotated[tuple[Path, ...], Arg("SRC", positional=True)]
    """Folders of images, at any depth."""
    out: Annotated[Path | None, Arg("LIST.txt")] = None
    """Write the list of good images, for `names:` of `type: folder`; a check that was stopped goes on only with it."""
    min_size: Count = 32
    """Tiny is a side under N pixels."""
    workers: Workers = cores()
    """Processes."""

    def run(self, console: Console) -> int:
        return check(self.sources, self.out, self.min_size, self.workers, console)


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """From a folder to another."""

    source: Source
    """A folder of images, at any depth."""
    out: Annotated[Path, Arg("DIR")]
    """Where to."""
    strip: Annotated[str, Arg("END")] = ""
    """Left out at the end of names, such as x4."""
    workers: Workers = cores()
    """Processes."""


@dataclass(frozen=True, kw_only=True)
class CutTiles(Conversion):
    """Cuts photographs into overlapping tiles, NAME_s001.png and so on."""

    tiles: Tiles = Tiles()

    def run(self, console: Console) -> int:
        return convert(self.tiles, self.source, self.out, self.strip, self.workers, console)


@dataclass(frozen=True, kw_only=True)
class MakeSmaller(Conversion):
    """Writes smaller copies, NAMET0.png and so on, by Pillow's antialiased Lanczos filter. Nothing is enlarged."""

    copies: Multiscale = Multiscale()

    def run(self, console: Console) -> int:
        return convert(self.copies, self.source, self.out, self.strip, self.workers, console)


@dataclass(frozen=True, kw_only=True)
class WriteDatabase(Conversion):
    """Writes an LMDB database in BasicSR's layout, for `type: lmdb`; also from one with a meta_info.pkl, of 2019."""

    out: Annotated[Path, Arg("X.lmdb")]
    """Where to."""

    def run(self, console: Console) -> int:
        return write_database(self.source, self.out, self.strip, self.workers, console)


@dataclass(frozen=True)
class MakeShards:
    """Packs images into tar files with indices, for `type: shards`, on a disk or in object storage."""

    source: Source
    """A folder of images, at any depth."""
    out: Annotated[str, Arg("DIR|URL")]
    """Where to, such as s3://bucket/set (extra `cloud`)."""
    lq: Annotated[Path | None, Arg("DIR")] = None
    """A folder of low-quality images; SRC and it become pairs, NAME.gt.png and NAME.lq.png."""
    size: Bytes = 256_000_000
    """Of a tar, about."""
    tile: Annotated[PositiveInt | None, Arg("N")] = None
    """Cut images into PNG tiles of N pixels a side. Left out, files are kept as they are."""
    part: Annotated[str, Arg("K/N")] = "1/1"
    """Make this part of the tars; other machines make the others."""
    workers: Workers = cores()
    """Processes."""

    def __post_init__(self) -> None:
        part, parts = self.parts
        if not 1 <= part <= parts:
            raise ValueError(f"--part {self.part}: expected K/N, such as 2/5, with K from 1 to N")
        if self.tile is not None and self.lq is not None:
            raise ValueError("--tile: pairs are not cut; cut both folders first: python -m data.prepare tiles")

    @property
    def parts(self) -> tuple[int, int]:
        """(K, N), or zeros for what is none."""
        part, _, parts = self.part.partition("/")
        return (int(part), int(parts)) if part.isdecimal() and parts.isdecimal() else (0, 0)

    def run(self, console: Console) -> int:
        return make_shards(self.source, self.lq, self.out, self.size, self.tile, self.parts, self.workers, console)


@dataclass(frozen=True)
class IndexTars:
    """Indexes tar files of WebDataset, once, so that `type: shards` reads them. A tar that has an index and still its
    length is not read again."""

    root: Annotated[str, Arg("DIR|URL", positional=True)]
    """A folder of *.tar, at any depth."""
    out: Annotated[str | None, Arg("DIR|URL")] = None
    """Where the indices go; this is the root of `type: shards` then. Left out, beside the tars."""
    workers: Workers = cores()
    """Processes."""

    def run(self, console: Console) -> int:
        return index_tars(self.root, self.out, self.workers, console)


@dataclass(frozen=True)
class EstimateKernels:
    """Estimates kernels by KernelGAN, for `kernel_bank`. Processes that torchrun starts share the work."""

    source: Source
    """A folder of images, at any depth."""
    out: Pool
    """Where to."""
    batch: PositiveInt = 16
    """Trained at once."""
    mat: Annotated[Path | None, Arg("DIR")] = None
    """Good ones also as DIR/NAME/NAME_kernel_x4.mat."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    kernels: KernelGAN = KernelGAN()

    def run(self, console: Console) -> int:
        processes = distributed.start(self.device)
        return collect_kernels(self.kernels, self.source, self.out, processes, console, self.batch, self.mat)


@dataclass(frozen=True)
class CollectNoise:
    """Collects flat tiles of photographs as patches of noise, for `real_noise`."""

    source: Source
    """A folder of images, at any depth."""
    out: Pool
    """A folder, or a database X.lmdb."""
    workers: Workers = cores()
    """Processes."""
    patches: NoisePatches = NoisePatches()

    def run(self, console: Console) -> int:
        return collect_noise(self.patches, self.source, self.out, self.workers, console)


@dataclass(frozen=True)
class MakeHr:
    """Makes photographs smaller, and so cleaner, for use as ground truths."""

    source: Annotated[Path, Arg("SRC")]
    """A folder of images, at any depth."""
    out: Annotated[Path, Arg("HR")]
    """Where to."""
    target: Annotated[Path | None, Arg("DIR")] = None
    """Clean images, taken as they are."""
    scale: PositiveInt = 4
    """Sides are multiples of it."""
    workers: Workers = cores()
    """Processes."""
    cleaning: CleanHr = CleanHr()

    def run(self, console: Console) -> int:
        return make_hr(self.cleaning, self.scale, self.source, self.target, self.out, self.workers, console)


@dataclass(frozen=True)
class Match:
    """Ranks option files by how much the images that they make resemble a folder of real ones: noise and what it
    depends on, spectrum, JPEG, sharpness. Prints distances with intervals, and draws a page to look at."""

    photos: Annotated[Path, Arg("PHOTOS", positional=True)]
    """A folder of real low-quality images, at any depth."""
    opt: Annotated[tuple[str, ...], Arg("FILE", flags=("--opt",))]
    """Option files, or names of presets such as realesrgan."""
    gt: Annotated[Path, Arg("DIR")]
    """Good images, which the candidates degrade: other scenes of the same kind."""
    out: Annotated[Path, Arg("PICTURE.png")] = Path("match.png")
    """The page."""
    fit: Annotated[Path | None, Arg("NEW.yml")] = None
    """Write the nearest candidate with its ranges narrowed to what the photographs show."""
    scale: PositiveInt | None = None
    """Of presets, which tell none."""
    window: PositiveInt | None = None
    """Side in pixels of what is measured, by default as large as most images allow, to 192; good images need as many
    times more as the scale is."""
    draws: PositiveInt = 600
    """Images that each candidate makes."""
    seed: Count = 0
    """Of everything random."""
    workers: Workers = cores()
    """Processes."""

    def run(self, console: Console) -> int:
        sizes = {"scale": self.scale, "window": self.window, "draws": self.draws, "seed": self.seed}
        match(self.photos, self.opt, self.gt, self.out, console, fit=self.fit, workers=self.workers, **sizes)
        return 0


# The last three are steps of the section `prepare:` of an option file, too.
COMMANDS: dict[str, type[Command]] = {
    "check": Check,
    "tiles": CutTiles,
    "multiscale": MakeSmaller,
    "lmdb": WriteDatabase,
    "shards": MakeShards,
    "index": IndexTars,
    "match": Match,
    "kernels": EstimateKernels,
    "noise": CollectNoise,
    "hr": MakeHr,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    command = parse_command(COMMANDS, arguments, prog="python -m data.prepare", description=__doc__, epilog=EPILOG)
    console = Console(int(os.environ.get("RANK", "0")))
    try:
        return 1 if command.run(console) else 0
    except KeyboardInterrupt:
        console.error("stopped; the same command goes on from here")
        return 130
    except (OptionError, OSError) as error:
        if console.is_main or not isinstance(error, AgreedError):
            console.error(str(error))
        return 1
    finally:
        distributed.stop()


if __name__ == "__main__":
    sys.exit(main())
