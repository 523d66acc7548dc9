"""Benchmarks: checkpoints × data sets, every number with the protocol it was measured by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from data.source import Source, SourceEntry
from data.training import ValidationItem, ValidationSet
from degradations import DEGRADATIONS, Degradation
from models.experiment import Experiment
from models.restore import Restorer
from utils.checking import OptionsError, Problem, Spec, check_tree
from utils.distributed import Processes, gather_objects
from utils.evaluate import best_sigma, bicubic, mean_scores, score, smoothed, smoothing_scores, to_8bit
from utils.fields import Count, OptionError, PositiveInt
from utils.image import write_image
from utils.logging import Console
from utils.metrics import METRICS, Metric
from utils.metrics.protocol import PROTOCOLS, Protocol
from utils.sheet import strip

BICUBIC, SMOOTHED = "bicubic", "bicubic, smoothed"
Scores = dict[str, float]


@dataclass(frozen=True)
class BenchmarkOptions:
    """A test option file (`options/test/*.yml`), or the same from the command line.

    `degradation` makes the low-quality images of data sets that bring none and name no other. `protocol` is a code
    base whose RGB and Y measures are used. `weights`: further checkpoints by name.
    """

    name: str
    scale: PositiveInt
    data: Mapping[str, Spec[Source]]
    degradation: Spec[Degradation] | None = None
    metrics: list[str] = field(default_factory=lambda: ["psnr", "ssim"])
    protocol: str = "basicsr"
    weights: dict[str, str] = field(default_factory=dict)
    validation_seed: Count = 0


def check_benchmark(tree: Mapping[str, Any], source: str = "") -> BenchmarkOptions:
    """Checks the option tree of a benchmark. Raises OptionsError with every problem."""
    tree = {key: value for key, value in tree.items() if value is not None}
    scale = tree.get("scale")
    options = check_tree(BenchmarkOptions, tree, source, **({"scale": scale} if isinstance(scale, int) else {}))
    if not options.data:
        raise OptionsError([Problem("data", "names no data set")], source)
    return options


# --- what is measured ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """Metrics, each under every protocol; the numbers are called such as `PSNR RGB`."""

    metrics: Mapping[str, Metric]
    protocols: Mapping[str, Protocol]

    @classmethod
    def build(cls, metrics: Sequence[str], family: str) -> Measure:
        """Raises OptionError for an unknown name."""
        protocols = {PROTOCOLS[n].channels.upper(): PROTOCOLS[n] for n in (family, f"{family}_y") if n in PROTOCOLS}
        if not protocols:
            families = sorted({name.removesuffix("_y") for name in PROTOCOLS})
            raise OptionError(f"protocol: no protocol is called {family!r}, expected one of {', '.join(families)}")
        return cls({name.upper(): METRICS.build(name) for name in metrics}, protocols)

    @property
    def columns(self) -> list[str]:
        """Names of the numbers."""
        return [f"{metric} {channels}" for channels in self.protocols for metric in self.metrics]

    def __call__(self, sr: Tensor, gt: Tensor, scale: int) -> Scores:
        return {
            f"{metric} {channels}": value
            for channels, protocol in self.protocols.items()
            for metric, value in score(sr, gt, self.metrics, protocol, scale).items()
        }

    def __str__(self) -> str:
        return "; ".join(f"{channels}: {protocol}" for channels, protocol in self.protocols.items()) + "; 8-bit values"


# --- what it is measured on --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BenchmarkSet:
    """A validation set, words about where its low-quality images come from, and names for its output files."""

    valid: ValidationSet
    origin: str
    degraded: bool
    images: list[str]


def benchmark_sets(options: BenchmarkOptions) -> list[BenchmarkSet]:
    """The data sets of a benchmark. Raises OptionError naming the set that cannot be used."""

    def named(kind: str) -> Spec[Degradation]:
        return DEGRADATIONS.check(kind, scale=options.scale)

    sets = []
    for name, spec in options.data.items():
        entry = _entry(spec, options.scale)
        if entry.degradation is not None or (options.degradation is not None and not entry.source.paired):
            chosen, why = entry.degradation or options.degradation, ""
        elif entry.source.paired:
            chosen, why = named("none"), ""
        else:
            chosen, why = named("bicubic"), " (the default where no low-quality images are given)"
        assert chosen is not None
        sets.append(_set(name, entry, chosen, why, options.validation_seed, options.scale))
    return sets


def experiment_sets(experiment: Experiment) -> list[BenchmarkSet]:
    """The validation sets of a training option file, with the same frozen degradations as during training."""
    if not experiment.data.validation:
        raise OptionError("data.validation: the option file names no set to test on; add one, or use --data")
    sets = []
    for name, spec in experiment.data.validation.items():
        entry = _entry(spec, experiment.scale)
        chosen = entry.degradation or experiment.degradation
        sets.append(_set(name, entry, chosen, ", as in training", experiment.data.validation_seed, experiment.scale))
    return sets


def _entry(spec: Spec[Source], scale: int) -> SourceEntry:
    return spec.build(scale=scale)  # type: ignore[return-value] - the registry's entry class


def _set(name: str, entry: SourceEntry, chosen: Spec[Degradation], why: str, seed: int, scale: int) -> BenchmarkSet:
    if Path(name).name != name or name.startswith("."):
        raise OptionError(f"data.{name}: the name of a set becomes a folder, expected one without slashes")
    degradation = chosen.component(scale=scale)
    if degradation.starts_from_lq and not entry.source.paired:
        raise OptionError(f"data.{name}: `{chosen.name}` starts from low-quality images, and this set has none")
    origin = "given" if chosen.name == "none" else f"made by `{chosen.name}`{why}, seed {seed}"
    if cut := getattr(entry.source, "cut", 0):
        origin += f"; {cut} ground truths cut at the bottom and right to a multiple of {scale}"
    valid = ValidationSet(name, entry, degradation, seed=seed, scale=scale)
    images = image_names([entry.source.name(index) for index in range(len(valid))])
    return BenchmarkSet(valid, origin, chosen.name not in ("none", "bicubic"), images)


def image_names(sources: Sequence[str]) -> list[str]:
    """Unique short names of images: the file's without its ending, with folders or the ending where needed."""
    paths = [Path(source) for source in sources]
    short = [path.stem for path in paths]
    if len(set(short)) == len(short):
        return short
    common = _common_folder(paths)
    full = [str(path.relative_to(common)) for path in paths]
    stems = [str(Path(name).with_suffix("")) for name in full]
    return [stem if stems.count(stem) == 1 else name for stem, name in zip(stems, full, strict=True)]


def _common_folder(paths: Sequence[Path]) -> Path:
    return next(folder for folder in paths[0].parents if all(path.is_relative_to(folder) for path in paths))


# --- measuring -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SetResult:
    """Scores on one set: row name → image name → numbers, in the order of the table. `remarks` belong below it."""

    name: str
    scale: int
    origin: str
    scores: dict[str, dict[str, Scores]]
    remarks: list[str]

    def means(self, row: str) -> Scores:
        """Mean over the images."""
        return mean_scores(list(self.scores[row].values()))


def run_set(
    tested: BenchmarkSet,
    restorers: Mapping[str, Restorer],
    measure: Measure,
    images_to: Path | None,
    processes: Processes,
    console: Console,
) -> SetResult:
    """Restores and measures a set, its images shared out over the ranks; all ranks get the result.

    With `images_to`, writes `<set>/<checkpoint>/<image>.png`, and strips of all with their PSNR where there are
    several checkpoints. Raises OptionError naming the image that cannot be measured.
    """
    valid, found, smoothing = tested.valid, [], []
    mine = range(processes.rank, len(valid), processes.world_size)
    first_protocol = next(iter(measure.protocols.values()))
    with console.progress(len(mine), desc=valid.name) as progress:
        for index in mine:
            item = valid[index]
            try:
                outputs = restore_all(item, restorers, valid.scale)
                scores = {name: measure(sr, item.gt, valid.scale) for name, sr in outputs.items()}
                if tested.degraded:
                    smoothing.append(smoothing_scores(outputs[BICUBIC], item.gt, first_protocol, valid.scale))
            except ValueError as error:
                raise OptionError(f"{valid.name}, {item.name}: {error}") from error
            found.append((index, scores))
            if images_to is not None:
                write_outputs(images_to / valid.name, tested.images[index], item, outputs, scores)
            progress.update()
    rows = dict(sorted(pair for part in gather_objects(found) for pair in part))
    order = [BICUBIC, *restorers]
    scores_by_row = {row: {tested.images[index]: scores[row] for index, scores in rows.items()} for row in order}
    remarks = []
    if tested.degraded:
        sigma = best_sigma([row for part in gather_objects(smoothing) for row in part])
        baseline = smoothed_scores(tested, sigma, measure, mine)
        scores_by_row = {BICUBIC: scores_by_row.pop(BICUBIC), SMOOTHED: baseline, **scores_by_row}
        remarks.append(f"`{SMOOTHED}`: Gaussian of sigma {sigma:g} pixels, which gives the highest mean PSNR")
    return SetResult(valid.name, valid.scale, tested.origin, scores_by_row, remarks)


def restore_all(item: ValidationItem, restorers: Mapping[str, Restorer], scale: int) -> dict[str, Tensor]:
    """The image by bicubic and by every checkpoint."""
    outputs = {BICUBIC: bicubic(item.batch.lq, scale)}
    for name, restorer in restorers.items():
        outputs[name] = restorer(item.batch.lq, item.batch.conditions(restorer.conditions))
    return outputs


def smoothed_scores(tested: BenchmarkSet, sigma: float, measure: Measure, mine: range) -> dict[str, Scores]:
    """Scores of the smoothed bicubic images, which are made again: the best sigma is known only after all of them."""
    found = []
    for index in mine:
        item = tested.valid[index]
        image = smoothed(bicubic(item.batch.lq, tested.valid.scale), sigma)
        found.append((index, measure(image, item.gt, tested.valid.scale)))
    rows = sorted(pair for part in gather_objects(found) for pair in part)
    return {tested.images[index]: scores for index, scores in rows}


def write_outputs(
    folder: Path, name: str, item: ValidationItem, outputs: Mapping[str, Tensor], scores: Mapping[str, Scores]
) -> None:
    """Writes what each checkpoint made of an image, and the strip."""
    for checkpoint, sr in outputs.items():
        write_image(folder / checkpoint / f"{name}.png", to_8bit(sr))
    if len(outputs) > 2:  # bicubic and two more
        number = next((column for column in next(iter(scores.values())) if column.startswith("PSNR")), None)
        numbers = {row: "" if number is None else f" {values[number]:.2f} dB" for row, values in scores.items()}
        captions = ["LQ", *(f"{row}{numbers[row]}" for row in outputs), "GT"]
        parts = [item.batch.lq, *outputs.values(), item.gt]
        write_image(folder / "strips" / f"{name}.png", strip([to_8bit(part) for part in parts], captions))
