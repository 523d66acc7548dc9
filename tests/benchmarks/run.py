"""Measures speed against plain versions, by turns in one run.

    python -m tests.benchmarks.run [WHAT ...] [--calls 4] [--device cuda] [--against DIR] [--json FILE]

WHAT is a pipeline (bsrgan, bsrgan_plus, realesrgan, classical, gaussian), a recipe's option file (bsrgan/x4),
`degradation`, `steps`, `restoring`, `loading` or `usrnet`; all if nothing is named. On a CPU one thread works, and
recipes and networks are small ones; on a GPU they are the full ones. Prints a table; figures are never asserted on.
With `--against`, pipelines (`isp` too, the camera step) are compared with another checkout's, by turns on the CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import torch

from tests.benchmarks import degradation, loading, restoring, steps, usrnet
from tests.benchmarks.measuring import Row, facts, text_of, write_json
from tests.helpers import ROOT
from utils.logging import Console
from utils.options.arguments import whole

PIPELINES = ("bsrgan", "bsrgan_plus", "realesrgan", "classical", "gaussian")


def main() -> None:
    """Runs the named measurements, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="WHAT")
    parser.add_argument("--calls", type=whole(1), default=4, help="calls in each of three rounds (default: 4)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures with device and versions")
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout, for pipelines on the CPU")
    args = parser.parse_args()
    device, console = torch.device(args.device), Console()
    recipes = steps.SMALL if device.type == "cpu" else steps.FULL
    known = {"degradation": PIPELINES, "steps": recipes, "restoring": ("restoring",), "loading": ("loading",)}
    known["usrnet"] = ("usrnet",)
    names = [name for what in args.what or known for name in known.get(what, (what,))]
    if args.against is not None:
        names = [name for what in args.what or ("degradation", "isp") for name in known.get(what, (what,))]
        work = {n: partial(against, n, args.against.resolve(), args.calls) for n in names if n in (*PIPELINES, "isp")}
    else:
        work = {name: found for name in names if (found := measurement(name, args.calls, device)) is not None}
    if unknown := set(names) - set(work):
        parser.error(
            f"nothing to measure is named {', '.join(sorted(unknown))}; known: {', '.join([*known, *PIPELINES])}"
        )
    if device.type == "cpu":
        torch.set_num_threads(1)
        cv2.setNumThreads(1)
    console.info(", ".join(facts(device).values()))
    rows: list[Row] = []
    for name, measure in work.items():
        console.info(f"measuring {name}")
        rows += measure()
        if args.json is not None:
            write_json(args.json, rows, device)
    console.info(text_of(rows))


def against(name: str, checkout: Path, calls: int) -> list[Row]:
    """Measure a pipeline here and in another checkout."""
    return list(degradation.rows_against(name, checkout, calls))


def measurement(name: str, calls: int, device: torch.device) -> Callable[[], list[Row]] | None:
    """What measures under this name."""
    if name in PIPELINES:
        return partial(degradation.rows, name, calls, device)
    if (ROOT / "options" / f"{name}.yml").is_file():
        return partial(steps.rows, name, calls, device)
    others = {
        "restoring": partial(restoring.rows, calls, device),
        "loading": partial(loading.rows, calls),
        "usrnet": partial(usrnet.rows, calls, device),
    }
    return others.get(name)


if __name__ == "__main__":
    main()
