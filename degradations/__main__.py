"""Print a degradation as a LaTeX table: `python -m degradations options/realesrgan/x4plus.yml`, or a preset's name."""

import argparse
import sys

from degradations.describe import latex_table
from utils.logging import Console
from utils.options.arguments import whole
from utils.options.fields import OptionError


def main() -> int:
    """Print the table. Returns the exit status."""
    parser = argparse.ArgumentParser("python -m degradations", description=__doc__)
    parser.add_argument("source", help="an option file, or the name of a preset such as resshift")
    parser.add_argument("--scale", type=whole(1), help="how many times smaller images become (an option file says it)")
    args, console = parser.parse_args(), Console()
    try:
        console.info(latex_table(args.source, args.scale))
    except OptionError as error:
        console.error(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
