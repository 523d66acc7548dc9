"""Pairs on disk: degraded images beside their ground truth, with the plans that made them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data.source import Source, UnreadableImageError
from data.sources.folder import read_listed
from data.validation import RefusedImageError, ValidationItem, ValidationSet
from degradations import Plan
from utils.images.files import from_tensor, image_files, to_float, to_uint8, to_uint16, write_image
from utils.logging import Console
from utils.options.fields import OptionError
from utils.storage.files import replace_text


class Files(Source):
    """Image files by their paths, each at least as large as one low-quality pixel."""

    def __init__(self, paths: Sequence[Path], scale: int) -> None:
        self.paths, self.scale = list(paths), scale

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def read(self, index: int) -> np.ndarray:
        image, path = read_listed(self.paths[index]), self.paths[index]
        if min(image.shape[:2]) < self.scale:
            raise UnreadableImageError(
                f"{path}: {image.shape[1]}x{image.shape[0]} is smaller than the scale {self.scale}"
            )
        return image


def named_files(arguments: Sequence[str], scale: int) -> tuple[Files, list[str]]:
    """Return image files and all images of folders, with a name for each: its path inside its folder, without suffix.

    Raises OptionError if there are none, or two have one name.
    """
    by_name: dict[str, Path] = {}
    for argument in map(Path, arguments):
        inside = image_files(argument) if argument.is_dir() else [argument]
        for path in inside:
            name = (path.relative_to(argument) if argument.is_dir() else Path(path.name)).with_suffix("").as_posix()
            if name in by_name:
                raise OptionError(f"{by_name[name]} and {path} would both be called {name}; give them in two commands")
            by_name[name] = path
    if not by_name:
        raise OptionError(f"no images in {', '.join(arguments)}")
    return Files(list(by_name.values()), scale), list(by_name)


def write_pairs(valid: ValidationSet, names: Sequence[str], folder: Path, about: str, console: Console) -> int:
    """Write gt/NAME.png, lq/NAME.png and a line of plans.jsonl ({name, index, plan}) for each image.

    Goes on where an earlier call stopped; `about` describes the degradation, and must be what it was then. Ground
    truth keeps its depth, low-quality images are rounded to 8 bits.

    Returns:
        How many images could not be used; each is named on the console.

    Raises:
        OptionError: the folder holds pairs of something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    described, listing, failed = folder / "degradation.yml", folder / "plans.jsonl", 0
    if described.exists() and described.read_text(encoding="utf-8") != about:
        raise OptionError(
            f"{folder} holds pairs of another degradation or seed, see {described}; choose another folder"
        )
    replace_text(described, about)
    lines = {line["name"]: line for line in read_plans(listing, unfinished=True)} if listing.exists() else {}
    kept = {n for i, n in enumerate(names) if n in lines and lines[n].get("index") == i and _complete(folder, n)}
    left = [line for name, line in lines.items() if name in kept or name not in names]
    replace_text(listing, "".join(json.dumps(line) + "\n" for line in left))
    progress = console.progress(len(names), initial=len(kept), desc="pairs")
    with progress, listing.open("a", encoding="utf-8") as file:
        for index, name in enumerate(names):
            if name in kept:
                continue
            try:
                plan = _write_pair(valid[index], name, folder)
            except (UnreadableImageError, RefusedImageError) as error:
                failed += 1
                console.error(f"left out: {error}")
            else:
                file.write(json.dumps({"name": name, "index": index, "plan": json.loads(plan.to_json())}) + "\n")
                file.flush()
            progress.update()
    written = len(names) - len(kept) - failed
    console.info(f"{folder}: {written} pairs written, {len(kept)} were there already, {failed} images unusable")
    return failed


def _complete(folder: Path, name: str) -> bool:
    return all((folder / kind / f"{name}.png").is_file() for kind in ("gt", "lq"))


def _write_pair(item: ValidationItem, name: str, folder: Path) -> Plan:
    gt, lq = from_tensor(item.gt[0]), from_tensor(item.batch.lq[0])
    eight = to_uint8(gt)
    write_image(folder / "gt" / f"{name}.png", eight if np.array_equal(to_float(eight), gt) else to_uint16(gt))
    write_image(folder / "lq" / f"{name}.png", to_uint8(lq))
    return item.batch.plans[0]


def read_plans(file: Path, unfinished: bool = False) -> list[dict[str, Any]]:
    """Return the lines of a file of plans: mappings with `name` or `path`, and `plan` as a Plan's JSON tree.

    Raises OptionError naming the line that is none; `unfinished` leaves out a last one that a kill cut short.
    """
    plans, lines = [], file.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            plan_of(entry)
            plans.append({"name": entry["path"] if "path" in entry else entry["name"], **entry})
        except (ValueError, KeyError, TypeError) as error:
            if not (unfinished and number == len(lines)):
                expected = '{"name" or "path": ..., "plan": {...}}'
                raise OptionError(f"{file}, line {number}: expected {expected} ({error})") from error
    return plans


def plan_of(line: dict[str, Any]) -> Plan:
    """Return the plan of a line. Raises ValueError or KeyError if it has none."""
    return Plan.from_json(json.dumps(line["plan"]))
