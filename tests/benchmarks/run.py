"""Measures speed against plain versions, by turns in one run.

    python -m tests.benchmarks.run [WHAT ...] [--calls 4] [--device cuda] [--against DIR] [--json FILE]

WHAT is a pipeline (bsrgan, bsrgan_plus, realesrgan, classical, gaussian), a recipe's option file (bsrgan/x4),
`degradation`, `steps`, `restoring`, `loading` or `usrnet`; all if nothing is named. On a CPU one thread works, and
recipes and networks are small ones; on a GPU they are the full ones. Prints a table; figures are never asserted on.
With `--against`, pipelines (`isp` too, the camera step) are compared with another checkout's, by turns on the CPU.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import cv2
import torch

from tests.benchmarks import degradation, loading, restoring, steps, usrnet
from tests.benchmarks.measuring import Row, facts, text_of, write_json
from tests.helpers import ROOT
from utils.logging import Console
from utils.options.arguments import Arg, parse
from utils.options.fields import PositiveInt

PIPELINES = ("bsrgan", "bsrgan_plus", "realesrgan", "classical", "gaussian")


@dataclass(frozen=True)
class Arguments:
    """The command line."""

    what: Annotated[tuple[str, ...], Arg("WHAT", positional=True)] = ()
    calls: PositiveInt = 4
    """Calls in each of three rounds."""
    device: str = "cpu"
    """cpu or cuda."""
    json: Annotated[Path | None, Arg("FILE")] = None
    """Write the figures with device and versions."""
    against: Annotated[Path | None, Arg("DIR")] = None
    """Another checkout, for pipelines on the CPU."""

    def work(self) -> dict[str, Callable[[], list[Row]]]:
        """Return what measures, by name. Raises ValueError for a name of nothing."""
        device = torch.device(self.device)
        recipes = steps.SMALL if device.type == "cpu" else steps.FULL
        known = {"degradation": PIPELINES, "steps": recipes, "restoring": ("restoring",), "loading": ("loading",)}
        known["usrnet"] = ("usrnet",)
        default = tuple(known) if self.against is None else ("degradation", "isp")
        names = [name for what in self.what or default for name in known.get(what, (what,))]
        if self.against is None:
            work = {name: found for name in names if (found := measurement(name, self.calls, device)) is not None}
        else:
            rows = partial(against, checkout=self.against.resolve(), calls=self.calls)
            work = {name: partial(rows, name) for name in names if name in (*PIPELINES, "isp")}
        if unknown := {*names} - {*work}:
            found = f"nothing to measure is named {', '.join(sorted(unknown))}"
            raise ValueError(f"{found}; known: {', '.join([*known, *PIPELINES])}")
        return work

    def __post_init__(self) -> None:
        self.work()


def main() -> None:
    """Runs the named measurements, or all."""
    args = parse(Arguments, prog="python -m tests.benchmarks.run", description=__doc__)
    device, console, work = torch.device(args.device), Console(), args.work()
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
