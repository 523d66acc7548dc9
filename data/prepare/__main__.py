"""Prepares image folders for training: `python -m data.prepare check|tiles|multiscale|lmdb|kernels|noise|hr` (each has
`--help`)."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

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
from utils.options import files as option_files
from utils.options.arguments import whole
from utils.options.components import check_tree
from utils.options.fields import OptionError
from utils.processes import distributed
from utils.processes.distributed import AgreedError

T = TypeVar("T")
_SOURCE = "a folder of images, at any depth"

_EPILOG = """A command that was stopped goes on when it is given again. The exit status is 1 if a file could not be
read; each such file is named, and the others are done."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    args = parse(arguments)
    console = Console(int(os.environ.get("RANK", "0")))
    try:
        return 1 if run(args, console) else 0
    except KeyboardInterrupt:
        console.error("stopped; the same command goes on from here")
        return 130
    except (OptionError, OSError) as error:
        if console.is_main or not isinstance(error, AgreedError):
            console.error(str(error))
        return 1
    finally:
        distributed.stop()


def run(args: argparse.Namespace, console: Console) -> int:
    """How many files could not be read."""
    if args.command == "kernels":
        settings = _settings(KernelGAN, args)
        processes = distributed.start(args.device)
        return collect_kernels(settings, args.source, args.out, processes, console, args.batch, args.mat)
    if args.command == "noise":
        return collect_noise(_settings(NoisePatches, args), args.source, args.out, args.workers, console)
    if args.command == "hr":
        job = _settings(CleanHr, args)
        return make_hr(job, args.scale, args.source, args.target, args.out, args.workers, console)
    if args.command == "check":
        return check(args.sources, args.out, args.min_size, args.workers, console)
    if args.command == "lmdb":
        return write_database(args.source, args.out, args.strip, args.workers, console)
    if args.command == "tiles":
        job = Tiles(args.size, args.step, args.thresh)
    else:
        job = Multiscale(tuple(args.scales), args.shortest)
    return convert(job, args.source, args.out, args.strip, args.workers, console)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m data.prepare", description=__doc__, epilog=_EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text, epilog=_EPILOG)
        if name != "kernels":
            made.add_argument("--workers", type=whole(0), default=cores(), help="processes (default: %(default)s)")
        return made

    def conversion(name: str, text: str, out: str) -> argparse.ArgumentParser:
        made = command(name, text)
        made.add_argument("source", type=Path, metavar="SRC", help=_SOURCE)
        made.add_argument("--out", type=Path, required=True, metavar=out, help="where to")
        made.add_argument("--strip", default="", metavar="END", help="left out at the end of names, such as x4")
        return made

    checking = command(
        "check",
        "Names files that are unreadable, truncated, tiny or duplicate; tables of sizes, modes and depths.",
    )
    checking.add_argument("sources", type=Path, nargs="+", metavar="SRC", help=_SOURCE)
    checking.add_argument(
        "--out",
        type=Path,
        metavar="LIST.txt",
        help="write the list of good images, for `names:` of `type: folder`; a check that was stopped goes on only "
        "with it",
    )
    text = "tiny is a side under N pixels (default: %(default)s)"
    checking.add_argument("--min-size", type=whole(0), default=32, metavar="N", help=text)

    tiles = conversion("tiles", "Cuts photographs into overlapping tiles, NAME_s001.png and so on.", "DIR")
    tiles.add_argument("--size", type=whole(1), default=480, metavar="N", help="pixels of a tile (default: 480)")
    tiles.add_argument("--step", type=whole(1), default=240, metavar="N", help="pixels between tiles (default: 240)")
    tiles.add_argument(
        "--thresh",
        type=whole(0),
        default=0,
        metavar="N",
        help="one more tile at the border if more than N pixels are left (default: 0)",
    )

    multiscale = conversion(
        "multiscale",
        "Writes smaller copies, NAMET0.png and so on, by Pillow's antialiased Lanczos filter. Nothing is enlarged.",
        "DIR",
    )
    multiscale.add_argument(
        "--scales",
        type=_shrinking,
        nargs="*",
        default=[0.75, 0.5, 1 / 3],
        metavar="S",
        help="factors below 1 (default: 0.75 0.5 1/3)",
    )
    multiscale.add_argument(
        "--shortest",
        type=whole(0),
        default=400,
        metavar="N",
        help="one more copy whose shorter side is N; 0 for none (default: 400)",
    )

    conversion("lmdb", "Writes an LMDB database in BasicSR's layout, for `type: lmdb`.", "X.lmdb")
    _realsr(command)
    return parser.parse_args(arguments)


def _realsr(command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """The commands of RealSR; also steps of the section `prepare:` of an option file."""
    text = "Estimates kernels by KernelGAN, for `kernel_bank`. Processes that torchrun starts share the work."
    kernels = command("kernels", text)
    kernels.add_argument("source", type=Path, metavar="SRC", help=_SOURCE)
    kernels.add_argument("--out", type=Path, required=True, metavar="POOL", help="where to")
    kernels.add_argument("--batch", type=whole(1), default=16, metavar="N", help="trained at once (default: 16)")
    kernels.add_argument("--mat", type=Path, metavar="DIR", help="good ones also as DIR/NAME/NAME_kernel_x4.mat")
    kernels.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    _fields(kernels, KernelGAN)
    noise = command("noise", "Collects flat tiles of photographs as patches of noise, for `real_noise`.")
    noise.add_argument("source", type=Path, metavar="SRC", help=_SOURCE)
    noise.add_argument("--out", type=Path, required=True, metavar="POOL", help="a folder, or a database X.lmdb")
    _fields(noise, NoisePatches)
    hr = command("hr", "Makes photographs smaller, and so cleaner, for use as ground truths.")
    hr.add_argument("--source", type=Path, required=True, metavar="SRC", help=_SOURCE)
    hr.add_argument("--target", type=Path, metavar="DIR", help="clean images, taken as they are")
    hr.add_argument("--out", type=Path, required=True, metavar="HR", help="where to")
    hr.add_argument("--scale", type=whole(1), default=4, metavar="N", help="sides are multiples of it (default: 4)")
    _fields(hr, CleanHr)


def _fields(parser: argparse.ArgumentParser, settings: type) -> None:
    """An option for each field of a dataclass, whose docstring tells what they mean; `_settings` checks the values."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = f"{parser.description}\n\n{inspect.getdoc(settings)}"
    for field in dataclasses.fields(settings):
        flag, default = "--" + field.name.replace("_", "-"), field.default
        if isinstance(default, bool):
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=f"(default: {default})")
        else:
            pair = 2 if field.name.endswith("_range") else None
            parser.add_argument(flag, nargs=pair, type=_value, metavar="X", help=f"(default: {default})")


def _value(text: str) -> Any:  # noqa: ANN401
    return option_files.parse(text, text)


def _settings(kind: type[T], args: argparse.Namespace) -> T:
    """Raises OptionError naming each value that is wrong."""
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return check_tree(kind, {name: value for name, value in given.items() if value is not None}, "the command line")


def _shrinking(text: str) -> float:
    try:
        top, _, bottom = text.partition("/")
        value = float(top) / float(bottom or 1)
    except (ValueError, ZeroDivisionError):
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"found {text}, expected a factor between 0 and 1, such as 0.5 or 1/3")
    return value


if __name__ == "__main__":
    sys.exit(main())
