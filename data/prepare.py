"""Prepares image folders for training: `python -m data.prepare check|tiles|multiscale|lmdb` (each has `--help`)."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from data.preparation.check import check
from data.preparation.convert import convert
from data.preparation.database import write_database
from data.preparation.multiscale import Multiscale
from data.preparation.tiles import Tiles
from utils.arguments import whole
from utils.fields import OptionError
from utils.logging import Console

_EPILOG = """A command that was stopped goes on when it is given again. The exit status is 1 if a file could not be
read; each such file is named, and the others are done."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    args = parse(arguments)
    console = Console()
    try:
        return 1 if run(args, console) else 0
    except KeyboardInterrupt:
        console.error("stopped; the same command goes on from here")
        return 130
    except (OptionError, OSError) as error:
        console.error(str(error))
        return 1


def run(args: argparse.Namespace, console: Console) -> int:
    """How many files could not be read."""
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
        made.add_argument("--workers", type=whole(0), default=_cores(), help="processes (default: %(default)s)")
        return made

    def conversion(name: str, text: str, out: str) -> argparse.ArgumentParser:
        made = command(name, text)
        made.add_argument("source", type=Path, metavar="SRC", help="a folder of images, at any depth")
        made.add_argument("--out", type=Path, required=True, metavar=out, help="where to")
        made.add_argument("--strip", default="", metavar="END", help="left out at the end of names, such as x4")
        return made

    checking = command(
        "check",
        "Names files that are unreadable, truncated, tiny or duplicate; tables of sizes, modes and depths.",
    )
    checking.add_argument("sources", type=Path, nargs="+", metavar="SRC", help="a folder of images, at any depth")
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
    return parser.parse_args(arguments)


def _cores() -> int:
    return min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


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
