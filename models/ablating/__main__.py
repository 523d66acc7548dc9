"""Trains variants of an option file with several seeds each, and tells which differences are more than chance.

    python -m models.ablating --opt options/ablation/bsrgan.yml --dry-run
    python -m models.ablating --opt options/ablation/bsrgan.yml
    python -m models.ablating --opt options/ablation/bsrgan.yml --jobs 2

Killed, it goes on with the same command; finished runs are not repeated, and a variant added later trains alone. The
last lines printed name the page to open.
"""

import argparse
import sys
from pathlib import Path

from models.ablating.gather import gather
from models.ablating.page import write_page
from models.ablating.paper import write_paper
from models.ablating.runs import Here, Stopped, Submitted, conduct, dry_run, prepare
from models.ablating.study import Study, load_study
from utils.logging import Console
from utils.options.arguments import whole
from utils.options.fields import OptionError
from utils.storage.lock import RunLock


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--opt", type=Path, required=True, metavar="FILE", help="option file of an ablation (options/ablation)")
    add("--set", action="append", default=[], metavar="PATH=VALUE", help="override an option of the file")
    add("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where the ablation's folder is made")
    add("--dry-run", action="store_true", help="check everything, list the runs with their parameters and hours")
    add("--page", action="store_true", help="train nothing: write the page of the runs that are finished")
    add("--jobs", type=whole(1), metavar="N", help="runs side by side (default: 1; with --submit: all)")
    add("--submit", choices=("slurm", "local"), help="hand the runs to a batch system through submitit")
    add("--device", default="auto", help="auto, cpu or cuda")
    return parser.parse_args()


def main() -> int:
    """Run the command line. Return the exit status."""
    args, console = arguments(), Console()
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


def run_all(study: Study, args: argparse.Namespace, console: Console) -> dict[str, str]:
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
