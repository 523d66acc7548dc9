"""Trains variants of an option file with several seeds each, and tells which differences are more than chance.

    python -m models.ablating --opt options/ablation/bsrgan.yml --dry-run
    python -m models.ablating --opt options/ablation/bsrgan.yml
    python -m models.ablating --opt options/ablation/bsrgan.yml --jobs 2

Killed, it goes on with the same command; finished runs are not repeated, and a variant added later trains alone. The
last lines printed name the page to open.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from models.ablating.gather import gather
from models.ablating.page import write_page
from models.ablating.paper import write_paper
from models.ablating.runs import Here, Stopped, Submitted, conduct, dry_run, prepare
from models.ablating.study import Study, load_study
from utils.logging import Console
from utils.options.arguments import Arg, OptionFile, Overrides, parse
from utils.options.fields import OptionError, PositiveInt
from utils.storage.lock import RunLock


@dataclass(frozen=True)
class Arguments:
    """The command line."""

    opt: OptionFile
    """Option file of an ablation (options/ablation)."""
    set: Overrides = ()
    """Override an option of the file."""
    runs: Annotated[Path, Arg("DIR")] = Path("runs")
    """Where the ablation's folder is made."""
    dry_run: bool = False
    """Check everything, list the runs with their parameters and hours."""
    page: bool = False
    """Train nothing: write the page of the runs that are finished."""
    jobs: PositiveInt | None = None
    """Runs side by side; left out, one, and with --submit all."""
    submit: Literal["slurm", "local"] | None = None
    """Hand the runs to a batch system through submitit."""
    device: str = "auto"
    """auto, cpu or cuda."""


def main() -> int:
    """Run the command line. Return the exit status."""
    args = parse(Arguments, prog="python -m models.ablating", description=__doc__)
    console = Console()
    try:
        study = load_study(args.opt, args.set, args.runs)
        if args.dry_run:
            console.info(dry_run(study, args.device))
            return 0
        with RunLock(study.folder):
            failed = {} if args.page else run_all(study, args, console)
            tell(study, failed, console)
        return 1 if failed else 0
    except Stopped:
        return 75
    except (OptionError, OSError) as error:
        console.error(str(error))
        return 1


def run_all(study: Study, args: Arguments, console: Console) -> dict[str, str]:
    """Train and test what is left to do. Return what failed, with reasons."""
    todo, runs = prepare(study, args.device), study.runs()
    console.info(f"{study.name}: {len(runs)} runs, {len(runs) - len(todo)} of them finished")
    if args.submit:
        crew = Submitted(study.folder / "jobs", args.submit, study.options.slurm, args.jobs)
    else:
        crew = Here(args.jobs or 1, study.options.processes)
    return conduct(study, todo, crew, console) if todo else {}


def tell(study: Study, failed: dict[str, str], console: Console) -> None:
    """Write the page and what goes into a paper, and say the verdicts."""
    report = gather(study, failed)
    page = study.folder / "report.html"
    write_page(report, page)
    write_paper(report, study.folder)
    verdicts = "\n".join(f"  {text}" for text in report.verdicts())
    console.info(f"\n{verdicts}\n\nfor a paper: report.md, table.tex and figures/*.pdf in {study.folder}")
    console.info(f"next, open the page: {page}")


if __name__ == "__main__":
    sys.exit(main())
