"""The option file as a whole: its schema, and the checks that need more than one part of it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.prepare.section import Prepare
from data.training import DataOptions
from data.validation import ValidationSet
from degradations import Degradation
from degradations.plan import MissingPoolError
from models.network import Network
from models.networks.blocks import EncoderNetwork
from models.stages.stage import Stage, StageSettings, channels
from models.training.performance import Performance
from utils.metrics import Metric
from utils.optim import Init
from utils.options import files as option_files
from utils.options.components import OptionsError, Problem, Spec, check_tree
from utils.options.fields import Count, OptionError, Positive, PositiveInt, Prob
from utils.options.schema import Schema, file_schema


@dataclass(frozen=True)
class Health:
    """From when on a run is warned of. A value has to stay above its threshold for `steps` iterations; null is never.

    Args:
        d_accuracy: share of images (or places of a logit map) that the discriminator judges rightly.
        colour_drift: largest difference of the mean colour between output and input of a batch, in 8-bit levels.
        data_wait: share of the time in which the step waits for data.
        steps: for how long, in iterations.
    """

    d_accuracy: Prob | None = 0.95
    colour_drift: Positive | None = 3.0
    data_wait: Prob | None = 0.1
    steps: PositiveInt = 1000


@dataclass(frozen=True)
class Logger:
    """When to print, validate and save, in iterations, and what to keep.

    Args:
        print_every, validate_every, save_every: in iterations.
        keep_last: so many of the newest checkpoints stay; the end of each stage always does.
        keep_best: so many of the best checkpoints stay, by the number `best_by`.
        best_by: a number of the table, which counts with its mean over the sets.
        metrics: what validation measures besides PSNR and SSIM, by name, after KAIR.
        luma: measure in Y, too, not only in RGB; such numbers are called PSNR Y.
        tensorboard: write its event files.
        wandb: show the run on Weights & Biases, too (extra `wandb`; WANDB_MODE=offline without an account).
        images: so many images of each validation set are shown.
        save_failures: so many checkpoints in a row that cannot be saved stop the run.
        nonfinite_in_a_row: after so many updates without a finite gradient the newest checkpoint is taken up again,
            once.
        health: from when on a run is warned of.
    """

    print_every: PositiveInt = 100
    validate_every: PositiveInt = 5000
    save_every: PositiveInt = 5000
    keep_last: PositiveInt = 3
    keep_best: Count = 1
    best_by: str = "PSNR"
    metrics: Mapping[str, Spec[Metric]] = field(default_factory=dict)
    luma: bool = False
    tensorboard: bool = True
    wandb: bool = False
    images: Count = 4
    save_failures: PositiveInt = 3
    nonfinite_in_a_row: PositiveInt = 10
    health: Health = Health()


@dataclass(frozen=True)
class Experiment:
    """An option file, checked. Components are built by the trainer when their turn comes.

    Args:
        name: the run folder is runs/NAME.
        scale: how many times larger the results are; said once, derived everywhere.
        network_g: the generator.
        degradation: how low-quality images are made from ground truths.
        data: images to train and to validate on.
        stages: how it learns, one after the other, by name.
        seed: of everything random.
        init_g: how the generator is filled before training.
        logger: when to print, validate and save, and what to keep.
        performance: what is chosen for speed and memory; it may change at a resume.
        prepare: pools of kernels and noise to collect before training.

    A generator of one channel (`num_in_ch: 1`, `num_out_ch: 1`) learns and is validated on gray images: what the
    degradation gives becomes full-range luma. Noise that is drawn for each channel loses a third of its level by that;
    `kinds: {gray: 1}` of a noise keeps it.
    """

    name: str
    scale: PositiveInt
    network_g: Spec[Network]
    degradation: Spec[Degradation]
    data: DataOptions
    stages: Mapping[str, Spec[Stage]]
    seed: Count = 0
    init_g: Init = Init()
    logger: Logger = Logger()
    performance: Performance = Performance()
    prepare: Prepare | None = None

    @property
    def gray(self) -> bool:
        """Whether images have one channel."""
        return channels(self.network_g) == 1

    def settings(self, stage: str) -> StageSettings:
        """Return the settings of a stage that do not depend on its type."""
        return self.stages[stage].settings

    def restores(self, stage: str) -> bool:
        """Return whether a stage learns super-resolution; else it is in no table of images' scores."""
        spec = self.stages[stage]
        restores = getattr(spec.factory, "restores", Stage.restores)  # a factory may also be a function
        return restores(spec.values)

    def batch_size(self, stage: str) -> int:
        """Return the samples per optimizer step of a stage, over all ranks."""
        return self.settings(stage).batch_size or self.data.batch_size


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Experiment, dict[str, Any]]:
    """Read and check an option file. Return the experiment and the resolved option tree.

    Raises OptionsError with every problem, each with its dotted path.
    """
    tree = option_files.load(path, overrides)
    return check_experiment(tree, str(path)), tree


def check_experiment(tree: Mapping[str, Any], source: str = "") -> Experiment:
    """Check an option tree. Raises OptionsError with every problem."""
    tree = {key: value for key, value in tree.items() if value is not None}
    scale = tree.get("scale")
    context = {"scale": scale} if isinstance(scale, int) and not isinstance(scale, bool) and scale > 0 else {}
    sizes = _check_sizes(tree.get("data"), context.get("scale"))  # on the bare tree, so that all is said at once
    try:
        experiment = check_tree(Experiment, tree, source, **context)
    except OptionsError as error:
        raise OptionsError(error.problems + sizes, source) from None
    if problems := sizes + _cross_check(experiment):
        raise OptionsError(problems, source)
    return experiment


def _cross_check(experiment: Experiment) -> list[Problem]:
    problems = []
    if getattr(experiment.network_g.factory, "role", "generator") != "generator":
        problems.append(Problem("network_g", f"`{experiment.network_g.name}` is a discriminator, expected a generator"))
    problems += _check_channels(experiment)
    if not experiment.data.train:
        problems.append(Problem("data.train", "names no source of training images"))
    if not experiment.stages:
        problems.append(Problem("stages", "names no stage"))
    default = experiment.degradation.build(scale=experiment.scale)
    problems += _check_degradation(experiment, "degradation", default, default, experiment.degradation.name)
    for where, spec in _own_degradations(experiment).items():
        own = spec.build(scale=experiment.scale)
        problems += _check_degradation(experiment, where, own, default, spec.name)
    problems += _check_embedding(experiment)
    earlier: list[str] = []
    for name, spec in experiment.stages.items():
        problems += _check_stage(experiment, name, spec, default, earlier)
        earlier.append(name)
    return problems


def _check_channels(experiment: Experiment) -> list[Problem]:
    generator, made = experiment.network_g, channels(experiment.network_g)
    taken = generator.values.get("num_in_ch", generator.values.get("out_nc", 3))
    if made not in (1, 3) or taken != made:
        text = f"found {taken} channels in and {made} out, expected 3 of each, or 1 of each for gray images"
        return [Problem("network_g", text)]
    if made == 1 and "sigma" in getattr(generator.factory, "conditions", ()):
        text = f"found 1, but `{generator.name}` is told the noise of RGB images, of which luma has less; expected 3"
        return [Problem("network_g.out_nc", text)]
    return [
        Problem(f"stages.{name}.network_d.num_in_ch", f"found {judged}, but network_g makes images of {made}")
        for name, spec in experiment.stages.items()
        if (network_d := spec.values.get("network_d")) is not None and (judged := channels(network_d)) != made
    ]


def _check_embedding(experiment: Experiment) -> list[Problem]:
    problems, factory = [], experiment.network_g.factory
    for name, spec in experiment.data.validation.items():
        if spec.wrapper["embedding"] is None:
            continue
        if not (isinstance(factory, type) and issubclass(factory, EncoderNetwork)):
            text = f"`{experiment.network_g.name}` has no encoder; choose network_g dasr or cdsr, or remove this option"
            problems.append(Problem(f"data.validation.{name}.embedding", text))
        from models.embedding.report import MIN_CROP  # it draws figures, and few runs want them

        least = MIN_CROP * experiment.scale
        if (crop := spec.wrapper["crop"]) is not None and crop < least:
            text = f"found {crop}, expected {least} or more beside `embedding`, whose power spectrum needs them"
            problems.append(Problem(f"data.validation.{name}.crop", text))
    return problems


def _own_degradations(experiment: Experiment) -> dict[str, Spec[Degradation]]:
    """Return those that single sources have instead of the experiment's, by their places in the file."""
    own = {
        f"data.{kind}.{name}.degradation": spec.wrapper["degradation"]
        for kind, specs in (("train", experiment.data.train), ("validation", experiment.data.validation))
        for name, spec in specs.items()
    }
    return {where: spec for where, spec in own.items() if spec is not None}


def _check_degradation(
    experiment: Experiment, where: str, degradation: Degradation, default: Degradation, name: str
) -> list[Problem]:
    problems, generator = [], experiment.network_g
    if missing := set(getattr(generator.factory, "conditions", ())) - {"scale"} - set(degradation.conditions):
        text = f"`{generator.name}` is given {' and '.join(sorted(missing))} with each image, but `{name}` tells"
        problems.append(Problem(where, f"{text} less; use `classical`, or name the `conditions` of a pipeline"))
    if set(degradation.scales) - {experiment.scale} and "scale" not in getattr(generator.factory, "conditions", ()):
        text = f"draws from {list(degradation.scales)}, but `{generator.name}` has one scale"
        problems.append(Problem(f"{where}.scales", text))
    if experiment.data.pair_pool and len(set(degradation.scales)) > 1:
        text = f"mixes samples of several steps, but {where}.scales gives each step a scale of its own; expected 0"
        problems.append(Problem("data.pair_pool", text))
    common = math.lcm(*degradation.scales)
    for key in ("crop_size", "gt_size"):
        if (size := getattr(experiment.data, key)) is not None and size % common:
            better = max(common, round(size / common) * common)
            text = f"{size} is no multiple of all of {where}.scales; {better} is"
            problems.append(Problem(f"data.{key}", text))
    if not problems and not where.startswith("data.validation"):
        problems += _rehearsed_draws(experiment.data.crop_size, degradation, where, experiment.prepare is not None)
    if where.startswith("data.train") and degradation.scales != default.scales:
        elsewhere = f"the scale of a batch is drawn from {list(default.scales)} elsewhere"
        text = f"found {list(degradation.scales)}, but {elsewhere}"
        problems.append(Problem(f"{where}.scales", text))
    return problems


def _rehearsed_draws(crop: int, degradation: Degradation, where: str, prepares: bool) -> list[Problem]:
    """Say before training that the degradation refuses the crop, such as one smaller than its kernels, or that a pool
    is not there, unless the run `prepares` pools first."""
    for number, scale in enumerate(256 * (degradation.scales or (degradation.scale,))):
        if crop % scale == 0:
            try:
                shared = {"scale": scale, "training_crop": True}
                degradation.sample(np.random.default_rng(number), (crop, crop), shared=shared)
            except MissingPoolError as error:
                return [] if prepares else [Problem(where, str(error))]
            except ValueError as error:
                return [Problem("data.crop_size", f"{crop} does not do for `{where}`: {error}")]
    return []


def _check_sizes(data: Any, scale: int | None) -> list[Problem]:  # noqa: ANN401
    sizes = {key: data.get(key) for key in ("crop_size", "gt_size")} if isinstance(data, Mapping) else {}
    whole = {key: size for key, size in sizes.items() if type(size) is int and size > 0}
    problems = []
    for key, size in whole.items():
        if scale is not None and size % scale:
            better = max(scale, round(size / scale) * scale)
            problems.append(Problem(f"data.{key}", f"{size} is no multiple of the scale {scale}; {better} is"))
    if len(whole) == 2 and whole["gt_size"] > whole["crop_size"]:
        problems.append(Problem("data.gt_size", f"{whole['gt_size']} is larger than crop_size {whole['crop_size']}"))
    return problems


def _check_stage(
    experiment: Experiment, name: str, spec: Spec[Stage], default: Degradation, earlier: list[str]
) -> list[Problem]:
    problems, where = [], f"stages.{name}"
    if not name.replace("_", "").replace("-", "").isalnum():
        problems.append(Problem(where, "the name of a stage becomes a folder; use letters, digits, - and _"))
    settings = spec.settings
    batch = experiment.batch_size(name)
    if experiment.data.pair_pool % batch:
        text = f"{experiment.data.pair_pool} is no multiple of the batch of {batch} of stage {name}"
        problems.append(Problem("data.pair_pool", text))
    if batch % settings.accumulate:
        problems.append(Problem(f"{where}.accumulate", f"{settings.accumulate} does not divide the batch of {batch}"))
    start = settings.init_from
    if start is not None and start.stage is not None and start.stage not in earlier:
        known = ", ".join(earlier) or "none"
        problems.append(
            Problem(f"{where}.init_from.stage", f"no earlier stage is called {start.stage!r}; there are: {known}")
        )
    problems += spec.problems()
    available = set(default.targets)
    for loss_name, term in spec.values.get("losses", {}).items():
        target = term.wrapper["target"]
        if target not in available:
            message = f"{target!r}, but `{experiment.degradation.name}` gives only: {', '.join(sorted(available))}"
            problems.append(Problem(f"{where}.losses.{loss_name}.target", message))
    return problems


def schema() -> Schema:
    """Return the JSON schema of option files, for editors."""
    return file_schema("blind super-resolution experiment", Experiment)


def build_generator(experiment: Experiment) -> Network:
    """Return the generator, freshly initialised.

    Raises OptionError if its scale is not the experiment's, or it has nothing to learn.
    """
    network = experiment.network_g.build(scale=experiment.scale)
    if network.scale != experiment.scale:
        name = experiment.network_g.name
        remedy = ""
        if type(network).scale is Network.scale and "scale" not in vars(network):  # it says nothing of its scale
            remedy = f"; if it has another, `{name}` must take `scale` in its constructor and set `self.scale = scale`"
        raise OptionError(f"network_g: `{name}` has scale {network.scale}, not {experiment.scale}{remedy}")
    if next(network.parameters(), None) is None:
        raise OptionError(f"network_g: `{experiment.network_g.name}` has no weights, so there is nothing to train")
    if (found := getattr(network, "channels", 3)) != 3:
        text = f"found a network of {found} channel, but `{experiment.network_g.name}` learns on RGB images alone"
        raise OptionError(f"network_g: {text}; expected 3 (for gray training choose a type that has num_in_ch)")
    experiment.init_g.apply(network)
    return network


def validation_sets(experiment: Experiment, default: Degradation) -> list[ValidationSet]:
    """Return the validation sets; `default` degrades those that name no degradation of their own."""
    return [
        ValidationSet(
            name,
            spec.build(scale=experiment.scale),
            default,
            seed=experiment.data.validation_seed,
            scale=experiment.scale,
            gray=experiment.gray,
        )
        for name, spec in experiment.data.validation.items()
    ]


def network_options(experiment: Experiment, tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the option tree of the generator with its scale, as stored beside its weights."""
    own = tree["network_g"]
    return {"scale": experiment.scale, **({"type": own} if isinstance(own, str) else own)}
