"""Which option file makes images like these? Candidates are ranked by the traces of noise, blur and compression."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.prepare.matching.distances import Comparison, compare
from data.prepare.matching.fit import Narrowed, narrowed
from data.prepare.matching.picture import picture
from data.prepare.matching.traces import SMALLEST, TRACES
from data.prepare.matching.windows import Measured, common_window, measure_degraded, measure_photos
from data.prepare.work import named_images
from degradations import DEGRADATIONS, Degradation, check_degradation
from degradations.pipeline import Pipeline
from utils.images.files import write_image
from utils.logging import Console, table
from utils.options import files
from utils.options.components import Spec
from utils.options.fields import OptionError
from utils.storage.files import replace_text

FITTED = "(fitted)"
"""What the new option file is called among the candidates."""
ROUNDS = 3
"""Of fitting: each starts from what the one before has narrowed."""


@dataclass(frozen=True)
class Candidate:
    """A degradation that may have made the photographs; `source` is its option file, or the name of a preset."""

    source: str
    spec: Spec[Degradation]
    scale: int

    @classmethod
    def read(cls, source: str, scale: int | None) -> "Candidate":
        """Raises OptionError if it is none, or needs low-quality images."""
        spec, told = check_degradation(source, scale)
        candidate = cls(source, spec, told)
        if candidate.degradation.starts_from_lq or not isinstance(candidate.degradation, Pipeline):
            raise OptionError(f"{source}: its degradation makes nothing of good images, so there is nothing to compare")
        return candidate

    @property
    def degradation(self) -> Degradation:
        return self.spec.build(scale=self.scale)


def match(
    photos: Path,
    sources: Sequence[str],
    gt: Path,
    out: Path,
    console: Console,
    *,
    scale: int | None = None,
    window: int | None = None,
    draws: int = 600,
    fit: Path | None = None,
    workers: int = 1,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Rank option files by how much the images that they make resemble photographs; print, and draw a page.

    Args:
        photos: a folder of real low-quality images.
        sources: option files, or names of presets.
        gt: a folder of good images, which the candidates degrade. Other scenes will do; other kinds of scenes show.
        out: the picture.
        scale: of presets, which tell none.
        window: side in pixels of what is measured; good images need `scale` times as many. Left out, see
            `common_window`.
        draws: of each candidate.
        fit: where the nearest candidate goes with its ranges narrowed to what the photographs show; a new file.

    Ranges that move with the iteration are those of its beginning.

    Returns:
        The candidates, the nearest first.

    Raises:
        OptionError: no folder, too few images of use, or a candidate that cannot be built.
    """
    if window is not None and window < SMALLEST:
        raise OptionError(f"--window {window} is too small, expected {SMALLEST} or more")
    if fit is not None and (fit.exists() or fit.suffix not in (".yml", ".yaml")):
        wrong = "exists; choose another name" if fit.exists() else "is no name of an option file, expected NAME.yml"
        raise OptionError(f"--fit {fit} {wrong}")
    candidates = {name: Candidate.read(source, scale) for name, source in _names(sources).items()}
    real, good = ([*named_images(folder, console=console).values()] for folder in (photos, gt))
    window = window or common_window(real, good, max(one.scale for one in candidates.values()))
    console.info(f"windows of {window}x{window} pixels are measured")
    seen = measure_photos(real, window, workers, console)

    def made(wanted: Mapping[str, Degradation], seed: int) -> dict[str, Measured]:
        return measure_degraded(wanted, good, window, draws, workers, console, seed)

    measured = made({name: one.degradation for name, one in candidates.items()}, seed)
    found = compare(seen.traced, {name: one.traced for name, one in measured.items()}, seed)
    if fit is not None:
        best = next(iter(found))
        ranges = _fitted(candidates[best], seen, measured[best], made, console)
        if ranges:
            fitted = _write_fit(candidates[best], ranges, fit)
            # both anew: the draws that a fit has seen speak for it
            both = {FITTED: fitted.degradation, best: candidates[best].degradation}
            measured |= made(both, seed + 1 + ROUNDS)
            found = compare(seen.traced, {name: one.traced for name, one in measured.items()}, seed)
            console.info(_ranges_table(ranges) + "\n")
    console.info(_ranking_table(found) + "\n")
    write_image(out, picture(seen, measured, found))
    console.info(f"{out}: look at it")
    if fit is not None:
        _tell_fit(fit, found, console)
    return found


def _names(sources: Sequence[str]) -> dict[str, str]:
    """Return sources by short names: that of the file, with its folder where two are called alike."""
    stems = [Path(source).stem for source in sources]
    names = {}
    for source, stem in zip(sources, stems, strict=True):
        name = stem if stems.count(stem) == 1 else f"{Path(source).parent.name}/{stem}"
        if name in names:
            raise OptionError(f"{source} is given twice, or is called like {names[name]}; give each once")
        names[name] = source
    return names


# --- fitting ---------------------------------------------------------------------------------------------------------


def _fitted(
    candidate: Candidate,
    seen: Measured,
    first: Measured,
    made: Any,  # noqa: ANN401
    console: Console,
) -> dict[str, Narrowed]:
    """Return the narrowed ranges by their place, after rounds of drawing from what is left; empty if none is."""
    ranges: dict[str, Narrowed] = {}
    spec, measured = candidate.spec, first
    for number in range(ROUNDS):
        pipeline = spec.build(scale=candidate.scale)
        assert isinstance(pipeline, Pipeline)
        new = narrowed(spec, pipeline, measured.plans, measured.traced, seen.traced)
        if not new:
            break
        for one in new:
            before = ranges[one.where].before if one.where in ranges else one.before
            ranges[one.where] = Narrowed(one.where, before, one.after)
        spec = _respecified(candidate, ranges)
        if number < ROUNDS - 1:
            measured = made({"fit": spec.build(scale=candidate.scale)}, 1 + number)["fit"]
    if not ranges:
        console.warn("the photographs narrow no range of the nearest candidate; no option file is written")
    return ranges


def _respecified(candidate: Candidate, ranges: Mapping[str, Narrowed]) -> Spec[Degradation]:
    options = files.merge({"type": candidate.spec.name, **_raw(candidate)}, _tree(ranges))
    return DEGRADATIONS.check(options, "degradation", scale=candidate.scale)


def _raw(candidate: Candidate) -> Mapping[str, Any]:
    """Return the degradation's options as they stand in the file."""
    if not Path(candidate.source).suffix:
        return {}
    tree = files.load(candidate.source)
    options = {k: v for k, v in tree.items() if k != "scale"} if "type" in tree else tree["degradation"]
    return {} if isinstance(options, str) else options


def _tree(ranges: Mapping[str, Narrowed]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for where, one in ranges.items():
        tree = files.override(tree, where, [*map(_number, one.after)])
    return tree


def _number(value: float) -> float | int:
    return int(value) if value == int(value) else value


def _write_fit(candidate: Candidate, ranges: Mapping[str, Narrowed], fit: Path) -> Candidate:
    """Write an option file that inherits the candidate's and changes its ranges; return it, read again."""
    source = Path(candidate.source)
    if source.suffix:
        head: dict[str, Any] = {"base": os.path.relpath(source, fit.parent), "name": fit.stem}
        bare = "type" in files.load(source)
    else:
        head, bare = {"scale": candidate.scale, "type": candidate.source}, True
    tree = _tree(ranges) if bare else {"degradation": _tree(ranges)}
    if bare:
        head.pop("name", None)
    text = f"# {candidate.source} with its ranges narrowed to what photographs show: python -m data.prepare match\n"
    fit.parent.mkdir(parents=True, exist_ok=True)
    replace_text(fit, text + files.dump({**head, **tree}))
    return Candidate.read(str(fit), None)


# --- words -----------------------------------------------------------------------------------------------------------


def _ranking_table(found: Mapping[str, Comparison]) -> str:
    rows = [
        [name, f"{one.total.value:.3f}", f"{one.total.low:.3f} to {one.total.high:.3f}", f"{one.nearest:.0%}"]
        + [f"{trace.value:.2f} ({trace.low:.2f} to {trace.high:.2f})" for trace in one.traces]
        for name, one in found.items()
    ]
    return table(["candidate", "distance", "95 % interval", "nearest", *TRACES], rows)


def _ranges_table(ranges: Mapping[str, Narrowed]) -> str:
    rows = [
        [one.where, *(f"{low:.4g} to {high:.4g}" for low, high in (one.before, one.after))] for one in ranges.values()
    ]
    return table(["range", "drawn before", "now"], rows)


def _tell_fit(fit: Path, found: Mapping[str, Comparison], console: Console) -> None:
    if FITTED in found:
        nearer = next(iter(found)) == FITTED
        verdict = "nearer than what it was made of" if nearer else "not nearer than what it was made of; do not use it"
        console.info(f"{fit}: {verdict}")
