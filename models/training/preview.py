"""Shows what a degradation does, before anything is trained on it.

The first training samples step by step; one of any number, bit for bit; crops of your own images; what is drawn how
often; pairs of images on disk; plans of such pairs, or of a step without finite gradient, once more:

    python -m degradations.preview --opt options/quickstart.yml
    python -m degradations.preview --opt options/quickstart.yml --sample 4711
    python -m degradations.preview --opt options/quickstart.yml PHOTO --count 3
    python -m degradations.preview --opt options/quickstart.yml --histogram plot.png
    python -m degradations.preview --opt options/quickstart.yml PHOTOS --apply DIR
    python -m degradations.preview --opt options/quickstart.yml --replay DIR/plans.jsonl
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
from torch import Tensor

from data.pairs import Files, named_files, plan_of, read_plans, write_pairs
from data.sampler import numbers_of_step
from data.source import SourceEntry
from data.training import Mix, Sample, TrainingSet, as_float, collate, degrade
from data.validation import ValidationSet
from degradations import Batch, Degradation, Plan
from degradations.drawn import drawn_picture, drawn_table, drawn_text
from models.training.experiment import Experiment, load_experiment
from utils.images.files import from_tensor, read_image, to_tensor, to_uint8, write_image
from utils.images.sheet import LARGEST_CELL, cells, sheet
from utils.logging import Console, table
from utils.options import files as option_files
from utils.options.arguments import Arg, OptionFile, Overrides, parse
from utils.options.fields import Count, OptionError, PositiveInt
from utils.seeding import sample_stream, step_stream

STRIPS = 4
"""Strips on a sheet, about, when --count does not say."""
PLANS = 1000
"""Plans in a histogram, when --count does not say."""


@dataclass(frozen=True)
class Shown:
    """One sample: the ground truth (3, H, W) that its degradation gets, the low-quality image it came with, if any,
    and the batch of one that comes out, as the network sees it."""

    title: str
    gt: Tensor
    lq: Tensor | None
    batch: Batch
    degradation: Degradation

    @classmethod
    def make(cls, title: str, path: str, gt: Tensor, lq: Tensor | None, plan: Plan, degradation: Degradation) -> Shown:
        """Degrade one sample as training does."""
        batch = degrade(collate([Sample([gt], [lq], [plan], [path])]), [degradation], torch.device("cpu"))
        return cls(title, as_float(gt), None if lq is None else as_float(lq), batch, degradation)

    @property
    def plan(self) -> Plan:
        """What was drawn."""
        return self.batch.plans[0]

    def after_steps(self) -> Iterator[tuple[str, Tensor]]:
        """Yield a caption and the image (3, h, w) after each step: plans that end there, applied."""
        given = None if self.lq is None else self.lq[None]
        for k, (name, drawn) in enumerate(self.plan.steps, 1):
            cut = replace(self.plan, steps=self.plan.steps[:k], crop=None)
            yield f"{k} {name} {drawn_text(drawn)}", self.degradation.apply(self.gt[None], [cut], given).lq[0]


# --- samples ---------------------------------------------------------------------------------------------------------


def training_samples(
    experiment: Experiment, stage: str, numbers: Sequence[int], mix: Mix | None = None
) -> Iterator[Shown]:
    """Yield the training samples with these numbers, exactly as the stage gets them; each view of one separately."""
    spec = experiment.stages[stage]
    if mix is None:
        default = experiment.degradation.build(scale=experiment.scale)
        mix = Mix.build(experiment.data.train, default, experiment.scale)
    dataset = TrainingSet(
        mix,
        experiment.data,
        seed=experiment.seed,
        stage=stage,
        batch_size=experiment.batch_size(stage),
        in_worker=False,
        views=getattr(spec.factory, "views", 1),
        positive=spec.values.get("positive", "same_image_same_degradation"),
    )
    for number in numbers:
        sample = dataset.sample(number)
        for _, reason in sample.mishaps:
            Console().warn(f"left out, another image is drawn instead: {reason}")
        views = zip(sample.gts, sample.lqs, sample.plans, sample.paths, strict=True)
        for view, (gt, lq, plan, path) in enumerate(views):
            title = f"sample {number} of {stage}{f', view {view}' if len(sample.gts) > 1 else ''}: {_tail(path)}"
            yield Shown.make(title, path, gt, lq, plan, mix.degradations[sample.source])


def image_samples(experiment: Experiment, stage: str, files: Files, count: int, whole: bool = False) -> Iterator[Shown]:
    """Yield `count` samples of each image, drawn like training samples 0, 1, … from data of this one image."""
    degradation = own_degradation(experiment)
    upright = replace(experiment, data=replace(experiment.data, augment="none", small_images="reflect"))
    multiple = math.lcm(experiment.scale, *degradation.scales)
    for index, path in enumerate(files.paths):
        image = files.read(index)  # refuses what training would silently replace
        if not whole:
            mix = Mix((SourceEntry(Files([path], files.scale)),), (str(path),), (degradation,))
            yield from training_samples(upright, stage, range(count), mix)
            continue
        height, width = (side - side % multiple for side in image.shape[:2])
        for number in range(count):
            plan = draw_plan(experiment, stage, degradation, number, (height, width))
            title = f"sample {number} of {stage}: {_tail(str(path))}"
            yield Shown.make(title, str(path), to_tensor(image[:height, :width]), None, plan, degradation)


def own_degradation(experiment: Experiment) -> Degradation:
    """Return the experiment's degradation. Raises OptionError if it needs low-quality images, which given ones lack."""
    degradation = experiment.degradation.build(scale=experiment.scale)
    if degradation.starts_from_lq:
        raise OptionError(
            f"degradation: `{experiment.degradation.name}` starts from given low-quality images; name no images, and "
            "the training pairs are shown"
        )
    return degradation


def draw_plan(experiment: Experiment, stage: str, degradation: Degradation, number: int, size: tuple[int, int]) -> Plan:
    """Return a plan drawn like that of a training sample of any size, without reading one."""
    iteration = number // experiment.batch_size(stage)
    shared = degradation.draw_shared(step_stream(experiment.seed, stage, iteration))
    return degradation.sample(sample_stream(experiment.seed, stage, number), size, iteration, shared)


def target_users(experiment: Experiment, stage: str) -> dict[str, list[str]]:
    """Return the names of a stage's losses by the target that they see."""
    users: dict[str, list[str]] = {}
    for name, term in (experiment.stages[stage].values.get("losses") or {}).items():
        users.setdefault(term.wrapper["target"], []).append(name)
    return users


# --- sheets ----------------------------------------------------------------------------------------------------------


def _tail(path: str) -> str:
    return name if len(name := Path(path).name) <= 24 else f"...{name[-21:]}"


def strips(shown: Shown, users: dict[str, list[str]]) -> list[np.ndarray]:
    """Return one sample in as many rows as its steps need: ground truth, after each step, and what the network sees."""
    batch, plan, gt = shown.batch, shown.plan, to_uint8(from_tensor(shown.gt))
    height, width = gt.shape[:2]
    if plan.crop is not None:
        top, left, size = (value * plan.scale for value in plan.crop)
        cv2.rectangle(gt, (left, top), (left + size - 1, top + size - 1), (255, 255, 0), 1)
    frame, crop = ("", "") if plan.crop is None else (", frame: final crop", ", final crop")
    smaller = ", shown smaller" if max(height, width) > LARGEST_CELL else ""
    tensors = [*([] if shown.lq is None else [("given LQ", shown.lq)]), *shown.after_steps()]
    tensors.append((f"LQ {batch.lq.shape[-2]}x{batch.lq.shape[-1]}{crop}", batch.lq[0]))
    for name, target in batch.targets.items():
        tensors.append((f"target {name}, seen by: {', '.join(users.get(name, ['no loss']))}", target[0]))
    if batch.kernel is not None:
        kernel = batch.kernel[0] / batch.kernel[0].max()
        tensors.append((f"kernel {kernel.shape[-2]}x{kernel.shape[-1]}", kernel.expand(3, -1, -1)))
    captions = [f"{shown.title}, GT {height}x{width}{frame}{smaller}", *(caption for caption, _ in tensors)]
    return cells([gt, *(to_uint8(from_tensor(tensor)) for _, tensor in tensors)], captions)


# --- replaying -------------------------------------------------------------------------------------------------------


def replay(experiment: Experiment, file: Path, count: int, console: Console) -> Iterator[Shown]:
    """Make the first samples of a file of plans again: of pairs on disk, or of a step that train.py wrote down."""
    lines = read_plans(file)[:count]
    if not lines:
        raise OptionError(f"{file} holds no plans")
    step = re.fullmatch(r"nonfinite_(.+)_([1-9]\d*)_rank\d+\.jsonl", file.name)
    if step is None:
        for line in lines:
            yield _replayed(experiment, file, line, console)
        return
    # Where a crop was cut is in no plan. The samples of that step are drawn again, and known by their plans.
    stage, iteration, plans = step[1], int(step[2]), [plan_of(line) for line in lines]
    if stage not in experiment.stages:
        raise OptionError(f"{file}: the option file has no stage {stage!r}; use the options.yml beside it")
    for shown in training_samples(experiment, stage, numbers_of_step(iteration, experiment.batch_size(stage))):
        if shown.plan in plans:
            plans.remove(shown.plan)
            yield shown
    if plans:
        raise OptionError(
            f"{file}: {len(plans)} of its first {len(lines)} plans are not drawn in iteration {iteration} of {stage}; "
            "options, seed or images are not the run's: use the options.yml beside it"
        )


def _replayed(experiment: Experiment, file: Path, line: dict[str, Any], console: Console) -> Shown:
    plan, name = plan_of(line), line["name"]
    path = Path(line["path"]) if "path" in line else file.parent / "gt" / f"{name}.png"
    stored = file.parent / "lq" / f"{name}.png"
    gt, (height, width) = read_image(path), plan.size
    top, left = (gt.shape[0] - height) // 2, (gt.shape[1] - width) // 2
    if min(top, left) < 0:
        raise OptionError(f"{path}: {gt.shape[1]}x{gt.shape[0]} is smaller than its plan's {width}x{height}")
    if gt.shape[:2] != plan.size:
        console.warn(f"{path}: the plan is for {width}x{height} somewhere in it; the centre is taken")
    tensor, degradation = to_tensor(gt[top : top + height, left : left + width]), own_degradation(experiment)
    try:
        shown = Shown.make(f"replay: {_tail(str(path))}", str(path), tensor, None, plan, degradation)
    except (ValueError, KeyError) as error:
        raise OptionError(f"{file}: the plan of {name} is none of `{experiment.degradation.name}`: {error}") from error
    if stored.is_file():
        same = np.array_equal(read_image(stored), to_uint8(from_tensor(shown.batch.lq[0])))
        (console.info if same else console.warn)(f"{stored}: {'equal' if same else 'not equal'} to the replay")
    return shown


# --- the command line ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """The command line."""

    images: Annotated[tuple[str, ...], Arg("IMAGE", positional=True)] = ()
    """Image files or folders (default: the training data)."""
    option_file: OptionFile
    """Option file."""
    overrides: Overrides = ()
    """Override an option."""
    stage: str | None = None
    """Whose samples and losses (default: the first stage)."""
    seed: Count | None = None
    """Instead of `seed` (with --apply: of `data.validation_seed`)."""
    out: Annotated[Path, Arg("FILE")] = Path("preview.png")
    """Where the sheet goes."""
    sample: tuple[Count, ...] = ()
    """Training samples with these numbers."""
    count: Annotated[PositiveInt | None, Arg("K")] = None
    """Samples per image, first training samples, or plans."""
    whole: bool = False
    """Degrade whole images, not crops of data.crop_size."""
    histogram: Annotated[Path | None, Arg("FILE")] = None
    """Plot what 1000 plans hold, and print it as a table."""
    apply: Annotated[Path | None, Arg("DIR")] = None
    """Write pairs and plans; after a stop the same command goes on."""
    replay: Annotated[Path | None, Arg("FILE")] = None
    """plans.jsonl of --apply, or nonfinite_*.jsonl of a run."""

    def __post_init__(self) -> None:
        if sum(mode is not None for mode in (self.histogram, self.apply, self.replay)) > 1:
            raise ValueError("--histogram, --apply and --replay do different things: choose one")
        if self.sample and (self.images or self.apply or self.replay):
            raise ValueError("--sample numbers training samples; it goes with neither images, --apply nor --replay")
        if self.images and (self.histogram or self.replay):
            raise ValueError("--histogram draws without images, and --replay knows its own; name none")
        if self.apply and not self.images:
            raise ValueError("--apply needs image files or folders to degrade")


def main() -> int:
    """Run the command line; return the exit status."""
    args, console = parse(Arguments, description=__doc__), Console()
    try:
        experiment, tree = load_experiment(args.option_file, args.overrides)
        stage = args.stage or next(iter(experiment.stages))
        if stage not in experiment.stages:
            raise OptionError(f"--stage {stage}: the file has the stages {', '.join(experiment.stages)}")
        if args.apply is not None:
            return apply_command(experiment, tree, args, args.apply, console)
        if args.seed is not None:
            experiment = replace(experiment, seed=args.seed)
        if args.histogram is not None:
            histogram_command(experiment, stage, args, args.histogram, console)
        else:
            sheet_command(experiment, stage, args, console)
        return 0
    except (OptionError, OSError) as error:
        console.error(str(error))
        return 1


def sheet_command(experiment: Experiment, stage: str, args: Arguments, console: Console) -> None:
    """Show samples step by step, on a sheet: the default."""
    if args.replay is not None:
        samples = replay(experiment, args.replay, args.count or STRIPS, console)
    elif args.images:
        files, _ = named_files(args.images, experiment.scale)
        if len(files) > 2 * STRIPS:
            console.warn(f"of {len(files)} images the first {2 * STRIPS} are shown")
            files = Files(files.paths[: 2 * STRIPS], files.scale)
        count = args.count or max(1, STRIPS // len(files))
        samples = image_samples(experiment, stage, files, count, args.whole)
    else:
        samples = training_samples(experiment, stage, args.sample or range(args.count or STRIPS))
    users = target_users(experiment, stage)
    save(args.out, sheet([row for shown in samples for row in strips(shown, users)]), console)
    console.info(f"next, see what is drawn how often:\n  {again(args, '--histogram', 'histogram.png')}")


def histogram_command(experiment: Experiment, stage: str, args: Arguments, out: Path, console: Console) -> None:
    """Show what is drawn how often, from sample 0 (or --sample N) on."""
    degradation = experiment.degradation.build(scale=experiment.scale)
    size, first = (experiment.data.crop_size, experiment.data.crop_size), args.sample[0] if args.sample else 0
    plans = [draw_plan(experiment, stage, degradation, first + i, size) for i in range(args.count or PLANS)]
    if not any(plan.steps for plan in plans):
        raise OptionError(f"degradation: `{experiment.degradation.name}` has no steps, so there is nothing to plot")
    console.info(table(*drawn_table([plan.steps for plan in plans])))
    for name, spec in experiment.data.train.items():
        if spec.wrapper["degradation"] is not None:
            console.warn(f"data.train.{name} has a degradation of its own, which is not in here")
    save(out, drawn_picture([plan.steps for plan in plans]), console)
    console.info(f"next, train on it:\n  {again(args, train=True)}")


def apply_command(experiment: Experiment, tree: dict[str, Any], args: Arguments, out: Path, console: Console) -> int:
    """Write pairs to disk, degraded as a validation set called `apply` would be."""
    files, names = named_files(args.images, experiment.scale)
    seed = experiment.data.validation_seed if args.seed is None else args.seed
    valid = ValidationSet("apply", SourceEntry(files), own_degradation(experiment), seed=seed, scale=experiment.scale)
    about = option_files.dump({"scale": experiment.scale, "seed": seed, "degradation": tree["degradation"]})
    failed = write_pairs(valid, names, out, about, console)
    console.info(f"next, see some of them again:\n  {again(args, '--replay', str(out / 'plans.jsonl'))}")
    return int(failed > 0)


def save(path: Path, picture: np.ndarray, console: Console) -> None:
    """Write a picture and say where. Raises OptionError for a name that is no image's."""
    try:
        write_image(path, picture)
    except ValueError as error:
        raise OptionError(str(error)) from error
    console.info(f"wrote {path} ({picture.shape[1]}x{picture.shape[0]} pixels)")


def again(args: Arguments, *more: str, train: bool = False) -> str:
    """Return a command line with the same option file and overrides."""
    start = ["python", "train.py"] if train else ["python", "-m", "degradations.preview"]
    overrides = [word for text in args.overrides for word in ("--set", text)]
    return shlex.join([*start, "--opt", str(args.option_file), *overrides, *more])
