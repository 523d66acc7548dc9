"""Print a degradation as a LaTeX table: `python -m degradations options/realesrgan/x4plus.yml`, or a preset's name."""

import sys
from dataclasses import dataclass
from typing import Annotated

from degradations.describe import latex_table
from utils.logging import Console
from utils.options.arguments import Arg, parse
from utils.options.fields import OptionError, PositiveInt


@dataclass(frozen=True)
class Arguments:
    """The command line."""

    source: Annotated[str, Arg("SOURCE", positional=True)]
    """An option file, or the name of a preset such as resshift."""
    scale: PositiveInt | None = None
    """How many times smaller images become; an option file says it."""


def main() -> int:
    """Print the table. Returns the exit status."""
    args, console = parse(Arguments, prog="python -m degradations", description=__doc__), Console()
    try:
        console.info(latex_table(args.source, args.scale))
    except OptionError as error:
        console.error(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
