"""Prepares image folders for training: `python -m data.prepare check|tiles|multiscale|lmdb|kernels|noise|hr` (each has
`--help`)."""

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
from data.prepare.multiscale import Multiscale
from data.prepare.noise import collect_noise
from data.prepare.section import CleanHr, NoisePatches
from data.prepare.tiles import Tiles
from data.prepare.work import cores
from degradations.kernelgan.settings import KernelGAN
from utils.logging import Console
from utils.options.arguments import Arg, parse_command
from utils.options.fields import Count, OptionError, PositiveInt
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


# The last three are steps of the section `prepare:` of an option file, too.
COMMANDS: dict[str, type[Command]] = {
    "check": Check,
    "tiles": CutTiles,
    "multiscale": MakeSmaller,
    "lmdb": WriteDatabase,
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
