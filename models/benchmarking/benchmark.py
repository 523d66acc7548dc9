"""Benchmarks: checkpoints × data sets, every number with the protocol it was measured by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from data.source import SourceEntry
from data.sources.folder import read_listed
from data.validation import ValidationItem, ValidationSet
from degradations import DEGRADATIONS, Batch, Degradation, Plan
from models.benchmarking.figures import Crop, write_figure
from models.network import NETWORKS, Network
from models.restoring.back_projection import BackProjection
from models.restoring.generator import LoadedGenerator
from models.restoring.nonblind import Assumption
from models.restoring.restorer import Engine, Restorer
from models.training.experiment import Experiment
from utils.images.files import changes, headers, image_names, list_images, read_header, to_tensor, write_image
from utils.images.sheet import strip
from utils.logging import Console
from utils.metrics import Metric
from utils.metrics.evaluate import best_sigma, bicubic, mean_scores, score, smoothed, smoothing_scores, to_8bit
from utils.metrics.protocol import PROTOCOLS, Protocol
from utils.options.components import OptionsError, Problem, Spec, check_tree
from utils.options.fields import Count, OptionError, PositiveInt
from utils.processes.distributed import Processes, gather_objects
from utils.processes.threads import one_ahead

BICUBIC, SMOOTHED = "bicubic", "bicubic, smoothed"
Scores = dict[str, float]
T = TypeVar("T")


def metric_specs(tree: Mapping[str, Any] | None = None) -> Mapping[str, Spec[Metric]]:
    """Check `metrics`, which is PSNR and SSIM by default. Raises OptionsError with every problem."""
    tree = tree or {"psnr": {"type": "psnr"}, "ssim": {"type": "ssim"}}
    return check_tree(_Metrics, {"metrics": tree}, "").metrics


@dataclass(frozen=True)
class _Metrics:
    metrics: Mapping[str, Spec[Metric]]


@dataclass(frozen=True)
class Baseline:
    """A network without weights, as a line to beat.

    Args:
        network: which one.
        choose: one of its options with values to try. The one with the highest mean PSNR (or else the best mean of the
            first number) counts on each set: a baseline at its best.
    """

    network: Spec[Network]
    choose: dict[str, list[float]] = field(default_factory=dict)

    def generators(self, scale: int) -> dict[str, LoadedGenerator]:
        """Return the networks to try, by what tells them apart."""
        if len(self.choose) > 1:
            raise OptionError(f"{self.network.where}: choose names {', '.join(self.choose)}, expected one option")
        choices = [{}] if not self.choose else [{k: v} for k, values in self.choose.items() for v in values]
        loaded = {}
        for chosen in choices:
            values = {"type": self.network.name, **self.network.values, **chosen}
            network = NETWORKS.build(values, where=self.network.where, scale=scale).eval()
            loaded[", ".join(f"{k} {v:g}" for k, v in chosen.items())] = LoadedGenerator(network, None, values)
        return loaded


@dataclass(frozen=True)
class Published:
    """Numbers of a paper, shown beside those of a set.

    Args:
        images: of the set, by which it is known (with `each`, times its length).
        rows: by row of a grid and by method, in the order of the columns, null where there is none.
    """

    images: PositiveInt
    rows: dict[str, dict[str, list[float | None]]]


@dataclass(frozen=True)
class Grid:
    """The layout of a paper's table. Each cell is a benchmark of its own: the file with the overrides (dotted path:
    value) of its row and of its column; with a value `{each: [...]}`, the mean over one for each.

    Args:
        rows: overrides by row; a row that is null is left out.
        columns: overrides by column; without them, all numbers of a row's benchmark are the columns.
        number: what a cell holds.
        published: by the names of sets.
    """

    rows: dict[str, dict[str, Any] | None]
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)
    number: str = "PSNR RGB"
    published: Mapping[str, Published] = field(default_factory=dict)


@dataclass(frozen=True)
class BenchmarkOptions:
    """A test option file (`options/test/*.yml`), or the same from the command line.

    Args:
        name: the results go to results/NAME.
        scale: how many times larger the results are.
        data: sets with ground truths, by name.
        real: folders of low-quality images that have no ground truth, by name.
        degradation: makes the low-quality images of sets that bring none and name no other.
        metrics: what is measured, by name.
        protocol: a code base whose RGB and Y measures are used.
        weights: further checkpoints, by name.
        validation_seed: of what images are degraded by.
        baselines: lines to beat besides bicubic, by name.
        grid: settings to go through, see `models.benchmarking.grid`.
        assume: what non-blind networks are told where the degradation does not say.
        smoothing: degraded sets get the line of bicubic, smoothed.
        engine: what computes the checkpoints on a CPU; `--engine` goes before it.
        self_ensemble, back_projection: additions to what checkpoints give (see `Restorer`).
    """

    name: str
    scale: PositiveInt
    data: Mapping[str, Spec[SourceEntry]] = field(default_factory=dict)
    real: dict[str, str] = field(default_factory=dict)
    degradation: Spec[Degradation] | None = None
    metrics: Mapping[str, Spec[Metric]] = field(default_factory=metric_specs)
    protocol: str = "basicsr"
    weights: dict[str, str] = field(default_factory=dict)
    validation_seed: Count = 0
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    grid: Grid | None = None
    assume: Assumption | None = None
    self_ensemble: bool = False
    back_projection: BackProjection | None = None
    smoothing: bool = True
    engine: Engine = "torch"


def check_benchmark(tree: Mapping[str, Any], source: str = "") -> BenchmarkOptions:
    """Check the option tree of a benchmark. Raises OptionsError with every problem."""
    tree = {key: value for key, value in tree.items() if value is not None}
    scale = tree.get("scale")
    options = check_tree(BenchmarkOptions, tree, source, **({"scale": scale} if isinstance(scale, int) else {}))
    if not options.data and not options.real:
        raise OptionsError([Problem("data", "names no data set, and neither does `real`")], source)
    if options.grid and options.real:
        raise OptionsError([Problem("real", "a grid measures against ground truths, which these have not")], source)
    if twice := [name for name in options.real if name in options.data]:
        raise OptionsError([Problem(f"real.{name}", "is the name of a set in `data` too") for name in twice], source)
    return options


# --- what is measured ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measure:
    """Metrics, each under every protocol; the numbers are called such as `PSNR RGB`."""

    metrics: Mapping[str, Metric]
    protocols: Mapping[str, Protocol]

    @classmethod
    def build(cls, metrics: Mapping[str, Spec[Metric]], family: str, device: str = "cpu") -> Measure:
        """Return metrics by name, which compute on `device` where they can.

        Raises OptionError for an unknown family, and for a metric that lacks a file or a package.
        """
        protocols = {PROTOCOLS[n].channels.upper(): PROTOCOLS[n] for n in (family, f"{family}_y") if n in PROTOCOLS}
        if not protocols:
            families = sorted({name.removesuffix("_y") for name in PROTOCOLS})
            raise OptionError(f"protocol: no protocol is called {family!r}, expected one of {', '.join(families)}")
        built = {name.upper(): _built(spec, device) for name, spec in metrics.items()}
        return cls(
            built, {key: p for key, p in protocols.items() if any(p.channels in m.channels for m in built.values())}
        )

    @property
    def columns(self) -> list[str]:
        """Names of the numbers."""
        return [
            f"{name} {channels}"
            for channels, protocol in self.protocols.items()
            for name, metric in self.metrics.items()
            if protocol.channels in metric.channels
        ]

    def higher_is_better(self, column: str) -> bool:
        """Return the direction of a number."""
        return self.metrics[column.rpartition(" ")[0]].higher_is_better

    def __call__(self, sr: Tensor, gt: Tensor | None, scale: int, path: str) -> Scores:
        """Return the numbers of one image of a file; without a ground truth, those that need none."""
        gray = any(protocol.gray == "file" for protocol in self.protocols.values()) and _is_gray(path)
        return {
            f"{metric} {channels}": value
            for channels, protocol in self.protocols.items()
            for metric, value in score(sr, gt, self.metrics, protocol, scale, gray).items()
        }

    def __str__(self) -> str:
        lower = [name for name, metric in self.metrics.items() if not metric.higher_is_better]
        parts = [f"{channels}: {protocol}" for channels, protocol in self.protocols.items()]
        remarks = [metric.remark for metric in self.metrics.values() if metric.remark]
        return "; ".join(
            [*parts, "8-bit values", *([f"lower is better: {', '.join(lower)}"] if lower else []), *remarks]
        )


def _is_gray(path: str) -> bool:
    """Return whether an image file has one channel; a record of a database is taken for none."""
    return Path(path).is_file() and read_header(path).gray


def _built(spec: Spec[Metric], device: str) -> Metric:
    try:
        return spec.build(device=device)
    except OptionError as error:
        message = str(error)
        raise OptionError(message if message.startswith(spec.where) else f"{spec.where}: {message}") from error


# --- what it is measured on --------------------------------------------------------------------------------------


class RealImages:
    """Low-quality images as they are, without ground truths: all of a folder, at any depth.

    Raises OptionError if there are none.
    """

    def __init__(self, name: str, root: str, scale: int) -> None:
        self.name, self.scale = name, scale
        try:
            self.listing = list_images(Path(root).expanduser())
        except OSError as error:
            raise OptionError(f"real.{name}: {error}") from error
        self.paths = self.listing.files
        if not self.paths:
            raise OptionError(f"real.{name}: {root} holds no images")

    def __len__(self) -> int:
        return len(self.paths)

    def remarks(self) -> list[str]:
        """Say which files are left out and what reading changes in the images."""
        return [*filter(None, [self.listing.remark]), *changes(headers(self.paths))]

    def __getitem__(self, number: int) -> ValidationItem:
        """Return an image whose batch has no targets. Raises UnreadableImageError for a file that cannot be read."""
        path = str(self.paths[number])
        lq = to_tensor(read_listed(path))[None]
        plan = Plan((lq.shape[-2] * self.scale, lq.shape[-1] * self.scale), self.scale)
        return ValidationItem(path, Batch(lq, {}, plans=[plan], paths=[path]))


@dataclass(frozen=True)
class BenchmarkSet:
    """A validation set, words about where its low-quality images come from, and names for its output files."""

    valid: ValidationSet | RealImages
    origin: str
    degraded: bool
    images: list[str]


def benchmark_sets(options: BenchmarkOptions) -> list[BenchmarkSet]:
    """Return the data sets of a benchmark. Raises OptionError naming the set that cannot be used."""

    def named(kind: str) -> Spec[Degradation]:
        return DEGRADATIONS.check(kind, scale=options.scale)

    sets = []
    for name, spec in options.data.items():
        entry = spec.build(scale=options.scale)
        if entry.degradation is not None or (options.degradation is not None and not entry.source.paired):
            chosen, why = entry.degradation or options.degradation, ""
        elif entry.source.paired:
            chosen, why = named("none"), ""
        else:
            chosen, why = named("bicubic"), " (the default where no low-quality images are given)"
        assert chosen is not None
        sets.append(_set(name, entry, chosen, why, options.validation_seed, options.scale))
    return sets + [_real_set(name, root, options) for name, root in options.real.items()]


def _real_set(name: str, root: str, options: BenchmarkOptions) -> BenchmarkSet:
    _check_set_name(name, "real")
    images = RealImages(name, root, options.scale)
    return BenchmarkSet(images, "given, without ground truths", False, image_names([str(p) for p in images.paths]))


def check_measurable(sets: Sequence[BenchmarkSet], measure: Measure) -> None:
    """Raise OptionError if there are real images, and no metric does without ground truths."""
    real = [tested.valid.name for tested in sets if isinstance(tested.valid, RealImages)]
    if real and all(metric.needs_gt for metric in measure.metrics.values()):
        raise OptionError(
            f"real.{real[0]}: these images have no ground truths, and all metrics ({', '.join(measure.metrics)}) need "
            "them; add one that does not, such as --metrics niqe:model=FILE"
        )


def experiment_sets(experiment: Experiment) -> list[BenchmarkSet]:
    """Return the validation sets of a training option file, with the same frozen degradations as during training."""
    if not experiment.data.validation:
        raise OptionError("data.validation: the option file names no set to test on; add one, or use --data")
    sets = []
    for name, spec in experiment.data.validation.items():
        entry = spec.build(scale=experiment.scale)
        chosen = entry.degradation or experiment.degradation
        sets.append(_set(name, entry, chosen, ", as in training", experiment.data.validation_seed, experiment.scale))
    return sets


def _set(name: str, entry: SourceEntry, chosen: Spec[Degradation], why: str, seed: int, scale: int) -> BenchmarkSet:
    _check_set_name(name, "data")
    origin = "given" if chosen.name == "none" else f"made by `{chosen.name}`{why}, seed {seed}"
    if cut := getattr(entry.source, "cut", 0):
        origin += f"; {cut} ground truths cut at the bottom and right to a multiple of {scale}"
    valid = ValidationSet(name, entry, chosen.build(scale=scale), seed=seed, scale=scale, section="data")
    images = image_names([valid.item_name(number) for number in range(len(valid))])
    return BenchmarkSet(valid, origin, chosen.name not in ("none", "bicubic"), images)


def _check_set_name(name: str, kind: str) -> None:
    if Path(name).name != name or name.startswith("."):
        raise OptionError(f"{kind}.{name}: the name of a set becomes a folder, expected one without slashes")


# --- measuring -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SetResult:
    """Scores on one set: row name → image name → numbers, in the order of the table. `remarks` belong below it."""

    name: str
    scale: int
    origin: str
    scores: dict[str, dict[str, Scores]]
    remarks: list[str]

    @property
    def columns(self) -> list[str]:
        """Return the names of the numbers that were measured on this set."""
        return list(next(iter(next(iter(self.scores.values())).values())))

    def means(self, row: str) -> Scores:
        """Return the mean over the images."""
        return mean_scores(list(self.scores[row].values()))


@dataclass(frozen=True)
class Contest:
    """What is measured beside bicubic: checkpoints by name, and of each baseline all that is tried as it.

    Attributes:
        restorers: the checkpoints, by their names in the table.
        baselines: what is to be tried as each baseline, by what tells it apart; the best counts.

    Raises:
        OptionError: two rows of the table would have one name.
    """

    restorers: Mapping[str, Restorer]
    baselines: Mapping[str, Mapping[str, Restorer]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if clash := set(self.baselines) & {*self.restorers, BICUBIC, SMOOTHED}:
            raise OptionError(f"{clash.pop()!r} names a baseline and something else in the table; rename one of them")

    @property
    def all(self) -> dict[str, Restorer]:
        """Return everything that is tried, by row name."""
        trials = {
            f"{name} {variant}": tried for name, kinds in self.baselines.items() for variant, tried in kinds.items()
        }
        return {**trials, **self.restorers}


@dataclass(frozen=True)
class Outputs:
    """What is written of images: all of them (`<set>/<checkpoint>/<image>.png`) with strips, and crops as figures."""

    folder: Path
    images: bool = True
    crops: Sequence[Crop] = ()

    def write(
        self,
        tested: BenchmarkSet,
        index: int,
        item: ValidationItem,
        restored: Mapping[str, Tensor],
        rows: dict[str, Scores],
    ) -> None:
        """Write what each row of the table made of an image. Raises OptionError for a crop that reaches beyond it."""
        name, set_name = tested.images[index], tested.valid.name
        made = {row: to_8bit(sr) for row, sr in restored.items()}
        if self.images:
            write_images(self.folder / set_name, name, item, made, rows)
        for number, crop in enumerate(self.crops, 1):
            if crop.is_of(set_name, name):
                captions = {f"{row}\n{_numbers(rows[row])}": image for row, image in made.items()}
                which = " / ".join(list(next(iter(rows.values())))[:2])
                captions = {f"LQ\n{which}": to_8bit(item.batch.lq), **captions}
                if (gt := item.batch.targets.get("plain")) is not None:
                    captions["GT"] = to_8bit(gt)
                stem = f"{set_name}_{name.replace('/', '_')}_{number}"
                write_figure(self.folder / "figures" / stem, crop, captions)


def _numbers(scores: Scores) -> str:
    """Return the first two numbers of an image, which is what fits below a crop."""
    return " / ".join(formatted(value, column) for column, value in list(scores.items())[:2])


@dataclass(frozen=True)
class ImageScores:
    """What one image gave: numbers by row, and PSNR of bicubic by the sigma with which it was smoothed."""

    rows: dict[str, Scores]
    smoothing: dict[float, float]


def run_set(
    tested: BenchmarkSet,
    contest: Contest,
    measure: Measure,
    processes: Processes,
    console: Console,
    outputs: Outputs | None = None,
    smoothing: bool = True,
) -> SetResult:
    """Restore and measure a set, its images shared out over the ranks; all ranks get the result.

    With `smoothing`, degraded sets get the line of bicubic, smoothed. Raises OptionError naming the image that cannot
    be measured.
    """
    smoothing = smoothing and tested.degraded
    images = measure_images(tested, contest.all, measure, processes, console, outputs, smoothing)
    scores = {row: {name: image.rows[row] for name, image in images.items()} for row in (BICUBIC, *contest.all)}
    result = SetResult(tested.valid.name, tested.valid.scale, tested.origin, scores, [])
    if smoothing:
        sigma = best_sigma([image.smoothing for image in images.values()])
        result = with_smoothed_line(result, tested, sigma, measure, processes)
    return with_remarks(keep_best(result, contest.baselines, measure), contest)


def measure_images(
    tested: BenchmarkSet,
    restorers: Mapping[str, Restorer],
    measure: Measure,
    processes: Processes,
    console: Console,
    outputs: Outputs | None,
    smoothing: bool,
) -> dict[str, ImageScores]:
    """Restore each image by bicubic and by every restorer, write what they made of it, and measure."""
    valid, measured = tested.valid, {}
    mine = range(processes.rank, len(valid), processes.world_size)
    first_protocol = next(iter(measure.protocols.values()))
    with console.progress(len(mine), desc=valid.name) as progress:
        for index, item in zip(mine, one_ahead(valid.__getitem__, mine), strict=True):
            try:
                restored = {BICUBIC: bicubic(item.batch.lq, valid.scale)}
                for name, restorer in restorers.items():
                    restored[name] = restorer(item.batch.lq, item.batch.conditions(restorer.conditions))
                gt = item.batch.targets.get("plain")
                rows = {name: measure(sr, gt, valid.scale, item.batch.paths[0]) for name, sr in restored.items()}
                by_sigma = {}
                if smoothing:
                    by_sigma = smoothing_scores(restored[BICUBIC], item.gt, first_protocol, valid.scale)
            except ValueError as error:
                raise OptionError(f"{valid.name}, {item.name}: {error}") from error
            measured[index] = ImageScores(rows, by_sigma)
            if outputs is not None:
                outputs.write(tested, index, item, restored, rows)
            progress.update()
    return _gathered(measured, tested)


def _gathered(of_rank: Mapping[int, T], tested: BenchmarkSet) -> dict[str, T]:
    """Return what all ranks have, by name of the image, in the order of the set."""
    everything = sorted((index, value) for part in gather_objects(dict(of_rank)) for index, value in part.items())
    return {tested.images[index]: value for index, value in everything}


def with_smoothed_line(
    result: SetResult, tested: BenchmarkSet, sigma: float, measure: Measure, processes: Processes
) -> SetResult:
    """Add the line of bicubic images smoothed by sigma; they are made again, since it is known only after all."""
    valid, measured = tested.valid, {}
    for index in range(processes.rank, len(valid), processes.world_size):
        item = valid[index]
        image = smoothed(bicubic(item.batch.lq, valid.scale), sigma)
        measured[index] = measure(image, item.gt, valid.scale, item.batch.paths[0])
    scores = dict(result.scores)
    scores = {BICUBIC: scores.pop(BICUBIC), SMOOTHED: _gathered(measured, tested), **scores}
    remark = f"`{SMOOTHED}`: Gaussian of sigma {sigma:g} pixels, which gives the highest mean PSNR"
    return replace(result, scores=scores, remarks=[*result.remarks, remark])


def keep_best(result: SetResult, baselines: Mapping[str, Mapping[str, Restorer]], measure: Measure) -> SetResult:
    """Keep, of the rows that each baseline was tried as, the one with the best `main_number`, under its name."""
    scores, remarks, number = dict(result.scores), list(result.remarks), main_number(result.columns)
    choose, words = (max, "highest") if measure.higher_is_better(number) else (min, "lowest")
    for name, kinds in baselines.items():
        rows = {f"{name} {variant}": variant for variant in kinds}
        best = choose(rows, key=lambda row: result.means(row)[number])
        kept = {row: scores.pop(row) for row in rows}[best]
        scores = {BICUBIC: scores.pop(BICUBIC), name: kept, **scores}
        if rows[best]:
            remarks.append(f"`{name}`: {rows[best]}, which gives the {words} mean {number}")
    return replace(result, scores=scores, remarks=remarks)


def with_remarks(result: SetResult, contest: Contest) -> SetResult:
    """Say what images were assumed to be and what was added to checkpoints, each once."""
    restorers = contest.all.values()
    assumed = {str(restorer.assume): None for restorer in restorers if restorer.assume is not None}
    added = {addition: None for restorer in restorers for addition in restorer.additions}
    remarks = [f"Assumed where an image does not tell its kernel: {assumption}" for assumption in assumed]
    remarks += [f"Added to checkpoints: {addition}" for addition in added]
    return replace(result, remarks=[*result.remarks, *remarks])


def main_number(columns: Sequence[str]) -> str:
    """Return the number that images are compared by: PSNR where it is measured."""
    return next((column for column in columns if column.startswith("PSNR")), columns[0])


def formatted(number: float, column: str) -> str:
    """Return a number as tables have it: dB with 2 digits, others with 4."""
    return f"{number:.{2 if column.startswith('PSNR') else 4}f}"


def write_images(
    folder: Path, name: str, item: ValidationItem, made: Mapping[str, np.ndarray], scores: Mapping[str, Scores]
) -> None:
    """Write what each row made of an image, and the strip of all with a number where there are several checkpoints."""
    for row, image in made.items():
        write_image(folder / row / f"{name}.png", image)
    if len(made) > 2:  # bicubic and two more
        number = main_number(list(next(iter(scores.values()))))
        unit = "dB" if number.startswith("PSNR") else number
        captions = ["LQ", *(f"{row} {scores[row][number]:.2f} {unit}" for row in made)]
        parts = [to_8bit(item.batch.lq), *made.values()]
        if (gt := item.batch.targets.get("plain")) is not None:
            captions, parts = [*captions, "GT"], [*parts, to_8bit(gt)]
        write_image(folder / "strips" / f"{name}.png", strip(parts, captions))
