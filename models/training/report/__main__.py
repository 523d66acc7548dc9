"""Compares runs on one page: scores, losses, learning rates, speed, and where their options differ.

    python -m models.training.report runs/*
    python -m models.training.report runs/a runs/b --out compared.html

The page needs no network and opens from disk. Runs may be going on; run the command again for the newest state.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from models.training.report.page import page_data
from models.training.report.runs import is_run, read_runs
from utils.logging import Console
from utils.options.arguments import Arg, parse
from utils.options.fields import OptionError
from utils.pages import write_page

TEMPLATE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Arguments:
    """What is compared, and where the page goes."""

    runs: Annotated[tuple[Path, ...], Arg("RUN", positional=True)]
    """Folders of runs; what is none is named and left out."""
    out: Path | None = None
    """The page (default: compared.html beside the first run)."""


def main() -> int:
    """Run the command line. Return the exit status."""
    args, console = parse(Arguments, description=__doc__), Console()
    try:
        runs = read_runs([folder for folder in args.runs if is_run(folder)])
        if left_out := [str(folder) for folder in args.runs if not is_run(folder)]:
            console.warn(f"left out, since train.py wrote no log there: {', '.join(left_out)}")
        path = args.out or runs[0].folder.parent / "compared.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_page(TEMPLATE, path, "Runs compared", page_data(runs))
        console.info(f"{len(runs)} runs; next, open the page: {path}")
        return 0
    except (OptionError, OSError) as error:
        console.error(str(error))
        return 1


if __name__ == "__main__":
    sys.exit(main())
