"""The option file of an ablation, checked as a whole: every variant is a whole option file of train.py."""

import dataclasses
import itertools
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from data.overlap import overlap
from data.source import Source
from data.training import Mix
from data.validation import ValidationSet
from models.benchmarking.benchmark import (
    BenchmarkOptions,
    BenchmarkSet,
    Measure,
    benchmark_sets,
    check_benchmark,
    check_measurable,
    metric_specs,
)
from models.training.building import try_building
from models.training.experiment import Experiment, check_experiment
from models.training.resume import MAY_CHANGE
from utils.metrics import Metric
from utils.options import files as option_files
from utils.options.components import OptionsError, Problem, Spec, check_tree, flat, nearest
from utils.options.fields import Count, OptionError, Positive, PositiveInt
from utils.processes.distributed import Processes

VALIDATION = "validation"
"""The test on validation sets of the option file, beside those of test option files."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Budget:
    """What all runs share.

    Args:
        iterations: of every stage.
    """

    iterations: PositiveInt | None = None


@dataclass(frozen=True)
class AblationOptions:
    """What an ablation's option file says besides the options of train.py, which all its runs share.

    Args:
        variants: by name their overrides (dotted path: value), as with `--set`; {} is the file as it is.
        seeds: every variant is trained with each.
        grid: paths with a list of values each; every variant is trained with every combination.
        baseline: what the others are compared with; left out, the first.
        test: sets of `data.validation` (left out, all) and test option files, relative to this file.
        metrics, protocol: those of the validation sets.
        judge_by: the number of the verdicts, such as `PSNR Y`; left out, the first.
        smallest: the smallest difference in it that is worth knowing.
        budget: what all runs share.
        processes: of each run.
        slurm: parameters of submitit for `--submit slurm`, such as timeout_min.
    """

    variants: dict[str, Any]
    seeds: tuple[Count, ...] = (0, 1, 2)
    grid: dict[str, list[Any] | None] = field(default_factory=dict)
    baseline: str | None = None
    test: tuple[str, ...] | None = None
    metrics: Mapping[str, Spec[Metric]] = field(default_factory=metric_specs)
    protocol: str = "basicsr"
    judge_by: str | None = None
    smallest: Positive = 0.1
    budget: Budget = Budget()
    processes: PositiveInt = 1
    slurm: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """A variant: its name, its overrides, and the option tree of its runs but for name and seed."""

    name: str
    changes: dict[str, Any]
    tree: dict[str, Any]


@dataclass(frozen=True)
class Test:
    """What all runs are tested on: the option tree of a benchmark, its sets and its numbers."""

    __test__ = False  # not pytest's

    tree: dict[str, Any]
    options: BenchmarkOptions
    sets: list[BenchmarkSet]
    measure: Measure


@dataclass(frozen=True)
class Run:
    """One training: a variant with a seed, in a run folder of its own, with the iterations of each of its stages."""

    variant: str
    seed: int
    folder: Path
    tree: dict[str, Any] = field(compare=False)
    iterations: dict[str, int] = field(compare=False)

    @property
    def name(self) -> str:
        """Return the name of the run, which is its folder's."""
        return self.folder.name


@dataclass(frozen=True)
class Study:
    """An ablation, checked."""

    name: str
    folder: Path
    options: AblationOptions
    variants: dict[str, Variant]
    experiments: dict[str, Experiment]
    baseline: str
    tests: dict[str, Test]

    def runs(self) -> list[Run]:
        """Return all runs, seed after seed, so that every variant has a result as soon as can be."""
        found = []
        for seed, (name, variant) in itertools.product(self.options.seeds, self.variants.items()):
            folder = self.folder / f"{name}-s{seed}"
            experiment = self.experiments[name]
            stages = {stage: experiment.settings(stage).iterations for stage in experiment.stages}
            found.append(Run(name, seed, folder, {**variant.tree, "name": folder.name, "seed": seed}, stages))
        return found

    @property
    def judge_by(self) -> str:
        """Return the number of the verdicts."""
        return self.options.judge_by or next(iter(self.tests.values())).measure.columns[0]


def load_study(path: Path, overrides: Sequence[str] = (), runs: Path = Path("runs")) -> Study:
    """Read and check an ablation: all variants as whole option files, and what they are tested on.

    Raises OptionsError with every problem of all variants; what they share is said once.
    """
    tree = option_files.load(path, overrides)
    own = {f.name: tree.pop(f.name) for f in dataclasses.fields(AblationOptions) if f.name in tree}
    problems: list[Problem] = []
    try:
        options = check_tree(AblationOptions, own, str(path))
    except OptionsError as error:
        # What the variants share can be checked all the same.
        raise OptionsError(_problems_of(tree, "") + error.problems, str(path)) from None
    shared = _share(tree, options, problems)
    variants = _variants(shared, options, problems)
    baseline = options.baseline or next(iter(variants), "")
    problems += _check_words(options, variants, baseline)
    experiments = _check_variants(variants, problems)
    folder = runs / str(tree.get("name"))
    problems += _check_folder(folder)
    tests: dict[str, Test] = {}
    if experiments:
        tests = _tests(shared, options, own.get("metrics"), path.parent, problems)
        problems += _check_built(experiments, tests)
        problems += _check_numbers(options, tests)
    if problems:
        raise OptionsError(list(dict.fromkeys(problems)), str(path))
    study = Study(str(tree["name"]), folder, options, variants, experiments, baseline, tests)
    _refuse_other_options(study)
    return study


# --- variants ----------------------------------------------------------------------------------------------------


def _share(tree: dict[str, Any], options: AblationOptions, problems: list[Problem]) -> dict[str, Any]:
    """Return the options that all runs share: the budget, and validation sets whose degradation is written out, so
    that no variant is judged on images of its own."""
    data, stages = tree.get("data"), tree.get("stages")
    if isinstance(data, Mapping) and isinstance(data.get("validation"), Mapping) and "degradation" in tree:
        own = {"degradation": tree["degradation"]}
        sets = {name: {"type": s} if isinstance(s, str) else s for name, s in data["validation"].items()}
        sets = {n: s if not isinstance(s, Mapping) or s.get("degradation") else {**s, **own} for n, s in sets.items()}
        tree = {**tree, "data": {**data, "validation": sets}}
    if options.budget.iterations is not None and isinstance(stages, Mapping):
        for stage in (name for name, entry in stages.items() if entry is not None):
            tree = option_files.override(tree, f"stages.{stage}.iterations", options.budget.iterations)
    return {key: value for key, value in tree.items() if key not in ("seed", "name")}


def _variants(shared: dict[str, Any], options: AblationOptions, problems: list[Problem]) -> dict[str, Variant]:
    axes = {path: values for path, values in options.grid.items() if values is not None}
    problems += [Problem(f"grid.{path}", "has no values") for path, values in axes.items() if not values]
    found: dict[str, Variant] = {}
    for given, changes in options.variants.items():
        if changes is None:  # null takes back what a `base:` names
            continue
        if not isinstance(changes, Mapping):
            text = f"found {changes!r}, expected overrides such as {{degradation.shuffle: false}}, or {{}} for none"
            problems.append(Problem(f"variants.{given}", text))
            continue
        for values in itertools.product(*axes.values()):
            point = dict(zip(axes, values, strict=True))
            name = "-".join([given, *(_point_name(path, value) for path, value in point.items())])
            if not _NAME.fullmatch(given):
                text = "becomes a folder, expected letters, digits, and `_ . + -` after the first"
                problems.append(Problem(f"variants.{given}", text))
            if other := [n for n in found if n.lower() == name.lower()]:
                text = f"its runs would be called {name!r}, as those of {other[0]!r}; choose another name"
                problems.append(Problem(f"variants.{given}", text))
                continue
            problems += [
                Problem(f"variants.{given}.{path}", text)
                for path in changes
                if (text := _not_a_variants(path, options, axes))
            ]
            tree = shared
            for path, value in {**changes, **point}.items():
                tree = option_files.override(tree, path, value)
            found[name] = Variant(name, {**changes, **point}, tree)
    return found


def _not_a_variants(path: str, options: AblationOptions, axes: Mapping[str, Any]) -> str:
    if path in ("seed", "name"):
        return f"is not a variant's; the runs get theirs from `{path}s`" if path == "seed" else "is not a variant's"
    if path == "scale":
        return "all variants are tested at one scale; make an ablation for each"
    if path.startswith("data.validation"):
        return "all variants are judged on the same images; change the set for all of them, outside `variants`"
    if options.budget.iterations is not None and re.fullmatch(r"stages\.[^.]+\.iterations", path):
        return "`budget.iterations` is what all runs share; remove one of them"
    return "is in `grid` too; remove one of them" if path in axes else ""


def _point_name(path: str, value: Any) -> str:  # noqa: ANN401
    words = re.findall(r"[A-Za-z0-9.+]+", option_files.dump({"v": value})[2:])
    return "_".join([path.rpartition(".")[2], *words])


def _check_words(options: AblationOptions, variants: Mapping[str, Variant], baseline: str) -> list[Problem]:
    problems = []
    if not variants:
        problems.append(Problem("variants", "names no variant"))
    if options.baseline is not None and baseline not in variants:
        text = f"no variant is called {baseline!r}{nearest(baseline, list(variants))}"
        problems.append(Problem("baseline", text))
    if not options.seeds:
        problems.append(Problem("seeds", "names no seed"))
    twice = sorted({seed for seed in options.seeds if options.seeds.count(seed) > 1})
    problems += [Problem("seeds", f"{seed} is given twice; the same run again tells nothing") for seed in twice]
    return problems


def _problems_of(tree: Mapping[str, Any], where: str) -> list[Problem]:
    try:
        check_experiment({"name": "any", **tree})
    except OptionsError as error:
        return [Problem(f"{where}{p.where}", p.message) for p in error.problems]
    return []


def _check_variants(variants: Mapping[str, Variant], problems: list[Problem]) -> dict[str, Experiment]:
    """Return the experiments of variants without mistakes. A mistake of all variants is told once, without a name."""
    experiments: dict[str, Experiment] = {}
    wrong: dict[str, list[Problem]] = {}
    for name, variant in variants.items():
        try:
            experiments[name] = check_experiment({**variant.tree, "name": name})
        except OptionsError as error:
            wrong[name] = error.problems
    everywhere = [p for p in next(iter(wrong.values()), []) if all(p in wrong.get(name, []) for name in variants)]
    problems += everywhere
    for name, own in wrong.items():
        problems += [Problem(f"variants.{name}: {p.where}", p.message) for p in own if p not in everywhere]
    seen: dict[str, Any] = {}
    for name, experiment in experiments.items():
        meaning = list(flat(dataclasses.replace(experiment, name="")).items())  # the order of steps and stages counts
        if (equal := next((other for other, known in seen.items() if known == meaning), None)) is not None:
            text = f"is equal to {equal!r}: its options change nothing; mend their paths, or remove it"
            problems.append(Problem(f"variants.{name}", text))
        seen[name] = meaning
    return experiments


# --- tests -------------------------------------------------------------------------------------------------------


def _tests(
    shared: dict[str, Any],
    options: AblationOptions,
    metrics: Any,  # noqa: ANN401
    beside: Path,
    problems: list[Problem],
) -> dict[str, Test]:
    """Return what the runs are tested on, by the name of its folder."""
    sets = {name: entry for name, entry in shared["data"].get("validation", {}).items() if entry is not None}
    wanted = list(sets) if options.test is None else list(options.test)
    trees: dict[str, dict[str, Any]] = {}
    if chosen := {name: sets[name] for name in wanted if name in sets}:
        about = {"scale": shared["scale"], "validation_seed": shared["data"].get("validation_seed", 0)}
        about["smoothing"] = False  # that line is the same for all runs, and no variant
        trees[VALIDATION] = {"name": VALIDATION, **about, "data": chosen, "protocol": options.protocol}
        trees[VALIDATION] |= {} if metrics is None else {"metrics": metrics}
    for name in (name for name in wanted if name not in sets):
        file = beside / name
        if file.suffix not in (".yml", ".yaml", ".json"):
            text = f"{name!r} is neither a set of data.validation{nearest(name, list(sets))}, nor a test option file"
            problems.append(Problem("test", text))
        elif file.stem in trees:
            problems.append(Problem("test", f"two tests are called {file.stem!r}; rename one"))
        else:
            try:
                trees[file.stem] = option_files.load(file)
            except OptionError as error:
                problems.append(Problem("test", str(error)))
    if not wanted:
        problems.append(Problem("test", "there is nothing to test on; add a set to data.validation"))
    tests: dict[str, Test] = {}
    for name, tree in trees.items():
        try:
            tests[name] = _test(tree, shared["scale"])
        except OptionError as error:
            own = error.problems if isinstance(error, OptionsError) else [_problem(str(error))]
            problems += [Problem(_in_this_file(name, p.where), p.message) for p in own]
    names = [tested.valid.name for test in tests.values() for tested in test.sets]
    problems += [Problem("test", f"two sets are called {n!r}; rename one") for n in {*names} if names.count(n) > 1]
    return tests


def _problem(text: str) -> Problem:
    where, _, message = text.partition(": ")
    return Problem(where, message)


def _in_this_file(test: str, where: str) -> str:
    """Return where an option of a test stands: its validation sets are this file's."""
    if test == VALIDATION:
        return where.replace("data.", "data.validation.", 1) if where.startswith("data.") else where
    return f"test {test}: {where}".rstrip(": ")


def _test(tree: dict[str, Any], scale: int) -> Test:
    tree = {key: value for key, value in tree.items() if key not in ("weights", "baselines")}
    options = check_benchmark(tree)
    if options.grid is not None:
        raise OptionError("grid: a grid has one number for many images, and differences need one for each; remove it")
    if options.scale != scale:
        raise OptionError(f"scale: found {options.scale}, but the runs have {scale}")
    sets, measure = benchmark_sets(options), Measure.build(options.metrics, options.protocol)
    check_measurable(sets, measure)
    return Test(tree, options, sets, measure)


def _check_numbers(options: AblationOptions, tests: Mapping[str, Test]) -> list[Problem]:
    wanted, known = options.judge_by, [column for test in tests.values() for column in test.measure.columns]
    if wanted is None or not tests or any(wanted in test.measure.columns for test in tests.values()):
        return []
    return [Problem("judge_by", f"no run will have {wanted!r}{nearest(wanted, list(dict.fromkeys(known)))}")]


# --- what only building shows --------------------------------------------------------------------------------------


def _check_built(experiments: Mapping[str, Experiment], tests: Mapping[str, Test]) -> list[Problem]:
    """Build sources and networks once, and look for test images among those trained on."""
    held_out = {
        tested.valid.name: tested.valid.entry.source
        for test in tests.values()
        for tested in test.sets
        if isinstance(tested.valid, ValidationSet)
    }
    alone, told = Processes(0, 1, 0, cast(Any, None)), dict[str, list[str]]()
    common: dict[Any, list[str]] = {}  # most variants train on the same images
    for name, experiment in experiments.items():
        try:
            default = experiment.degradation.build(scale=experiment.scale)
            mix = Mix.build(experiment.data.train, default, experiment.scale)
            try_building(experiment, list(experiment.stages), alone)
            for set_name, spec in experiment.data.validation.items():
                ValidationSet(set_name, spec.build(scale=experiment.scale), default, seed=0, scale=experiment.scale)
        except OptionError as error:
            told.setdefault(str(error), []).append(name)
            continue
        trained: dict[str, Source] = {n: entry.source for n, entry in zip(mix.names, mix.entries, strict=True)}
        files = tuple((n, *map(source.path, range(len(source)))) for n, source in trained.items())
        if files not in common:
            common[files] = overlap(trained, held_out)
        for text in common[files]:
            told.setdefault(text, []).append(name)
    return [
        _problem(text if len(names) == len(experiments) else f"variants.{names[0]}: {text}")
        for text, names in told.items()
    ]


def _check_folder(folder: Path) -> list[Problem]:
    """Say where the folder of the runs cannot be made, or not be written to."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            return []
    except OSError as error:
        return [Problem("name", f"the runs cannot be written to {folder}: {there}: {error.strerror}")]


def _refuse_other_options(study: Study) -> None:
    """Refuse to go on where a run that is there was trained with other options, by an OptionError."""
    told = []
    for run in study.runs():
        stored = run.folder / "options.yml"
        if stored.is_file():
            different = option_files.differences(option_files.load(stored), run.tree, apart_from=MAY_CHANGE)
            told += [f"{run.folder}: {text}" for text in different]
    if told:
        raise OptionError(
            f"{len(told)} options of runs that are there have changed:\n  "
            + "\n  ".join(told)
            + "\ngive the ablation another `name`, put the options back, or remove these folders to train them anew"
        )
