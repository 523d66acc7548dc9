"""The checkpoints of a run: written for all ranks together, and the one that it goes on from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any

import torch

from data.source import fingerprint
from models.training.experiment import Experiment
from utils.logging import Console
from utils.optim import SCHEDULES, Constant
from utils.options import files as option_files
from utils.options.components import Eager
from utils.options.fields import OptionError
from utils.processes import distributed
from utils.processes.distributed import AgreedError, Processes
from utils.storage import checkpoint
from utils.storage.checkpoint import Checkpoints, LoadedCheckpoint, SaveFailed, SaveRefused
from utils.storage.mirror import Mirror

MAY_CHANGE = (
    *("name", "logger", "performance"),
    *("data.workers", "data.validation", "data.max_unreadable", "data.cache"),
)
"""Options that a resumed run may have otherwise than the run it resumes."""


PLACES = ("type", "root", "gt_root", "lq_root", "names", "cache", "cache_size", "requests")
"""Options of a source that may change if its images do not."""


class Saver:
    """Saves checkpoints from the main process. One that fails (a full disk) is only warned of, until `limit` in a row
    have, since training may outlive it. `mirror` has each one copied elsewhere."""

    def __init__(
        self,
        checkpoints: Checkpoints,
        limit: int,
        processes: Processes,
        console: Console,
        mirror: Mirror | None = None,
    ) -> None:
        self.checkpoints, self.limit, self.processes, self.console = checkpoints, limit, processes, console
        self.mirror = mirror
        self.failures = 0

    def save(self, stage: str, iteration: int, *contents: Any, final: bool, **more: Any) -> None:  # noqa: ANN401
        """Call `Checkpoints.save` with these arguments. Raises AgreedError on every rank alike."""
        failed = refused = 0
        if self.processes.is_main:
            try:
                self.checkpoints.save(stage, iteration, *contents, final=final, **more)
                if self.mirror is not None:
                    self.mirror.push()
            except (SaveFailed, SaveRefused) as error:
                failed, refused = int(isinstance(error, SaveFailed)), int(isinstance(error, SaveRefused))
                self.console.warn(f"checkpoint not saved, training goes on: {error}")
        failed, refused = distributed.agree(torch.tensor([failed, refused]))
        self.failures = self.failures + 1 if failed else 0
        if self.failures >= self.limit or (failed and final):
            folder = self.checkpoints.folder.parent
            raise AgreedError(
                f"{self.failures} checkpoints in a row could not be saved in {folder}; free some disk space"
            )
        if refused and final:
            raise AgreedError(f"stage {stage} ends with weights that are not finite; its checkpoints are kept")


@dataclass(frozen=True)
class Resume:
    """How a run goes on.

    Attributes:
        wish: `auto` for the newest checkpoint in the run folder, `none`, or the path of a checkpoint folder.
        anyway: accept that options differ.
        extend: where a stage is longer than it was, start its learning-rate schedule anew.
        only: the stage that alone is trained, or all.
    """

    wish: str = "auto"
    anyway: bool = False
    extend: bool = False
    only: str | None = None


def choose_resume(
    how: Resume,
    folder: Path,
    experiment: Experiment,
    tree: Mapping[str, Any],
    processes: Processes,
    console: Console,
) -> LoadedCheckpoint | None:
    """Return the checkpoint to go on from, said in words, or None to start anew.

    Its meta["schedule_start"] is the iteration at which its learning-rate schedule began, or begins now.

    Raises OptionError when options differ in what matters, or when `none` meets a folder with checkpoints.
    """
    path = None if how.wish in ("auto", "none") else Path(how.wish)
    with distributed.together():
        if processes.is_main and path is None:  # one rank decides, the others follow
            path = _newest(Checkpoints(folder / "checkpoints", warn=console.warn), experiment, how.only)
            if path is not None and how.wish == "none":
                raise OptionError(
                    f"{folder} already holds checkpoints; choose another `name`, or leave out --resume none"
                )
    if not (chosen := distributed.broadcast_string(str(path or ""))):
        return None
    with distributed.together():
        saved = checkpoint.load(chosen)
        longer = _refuse_differences(saved, experiment, tree, how)
        start = _schedule_start(saved, experiment, how) if saved.meta["stage"] in longer else None
    why = "the newest in the run folder" if how.wish == "auto" else "as --resume says"
    stage, iteration = saved.meta["stage"], saved.meta["iteration"]
    console.info(f"resuming from {saved.folder} ({why}): stage {stage}, iteration {iteration}")
    if start is not None:
        total = experiment.settings(stage).iterations
        rates = "starts anew" if start == iteration else "goes on as it was"
        console.info(f"stage {stage} is made longer, from {iteration} to {total} iterations; its schedule {rates}")
        saved.meta["schedule_start"] = start
        after = "stays as it is" if how.only else "is trained anew afterwards"
        for later in dropwhile(lambda name: name != stage, experiment.stages):
            if later != stage and Checkpoints(folder / "checkpoints").finished(later) is not None:
                console.info(f"stage {later}, trained from the shorter one, {after}")
    return saved


def _newest(checkpoints: Checkpoints, experiment: Experiment, only: str | None) -> Path | None:
    """Return the newest checkpoint, or the end of the first stage before it that is to be longer than it was."""
    newest = checkpoints.newest()
    if newest is None or (reached := checkpoint.read_meta(newest)["stage"]) not in experiment.stages:
        return newest
    for stage in takewhile(lambda name: name != reached, experiment.stages):
        end = checkpoints.finished(stage) if only in (None, stage) else None
        if end is not None and checkpoint.read_meta(end)["iteration"] < experiment.settings(stage).iterations:
            return end
    return newest


def _refuse_differences(
    saved: LoadedCheckpoint, experiment: Experiment, tree: Mapping[str, Any], how: Resume
) -> set[str]:
    """Return the stages that are longer than they were. Raises OptionError for what else differs and matters."""
    if saved.meta["stage"] not in experiment.stages:
        raise OptionError(f"{saved.folder} is of stage {saved.meta['stage']}, which the option file does not have")
    before = saved.meta["options"]
    longer = {
        name
        for name in experiment.stages
        if how.only in (None, name)
        and (before["stages"].get(name) or {}).get("iterations", math.inf) < experiment.settings(name).iterations
    }
    may_change = (*MAY_CHANGE, *(f"stages.{name}.iterations" for name in longer), *_moved(saved, experiment, tree))
    different = option_files.differences(before, tree, apart_from=may_change)
    if different and not how.anyway:
        raise OptionError(
            f"{saved.folder} was trained with other options:\n  "
            + "\n  ".join(different)
            + "\nresume with the old ones, choose another `name`, or accept the new ones with --resume-anyway"
        )
    return longer


def _moved(saved: LoadedCheckpoint, experiment: Experiment, tree: Mapping[str, Any]) -> list[str]:
    """Return the options that say where the training images lie and how they are fetched, as far as those are the same
    images as before."""
    same = []
    for name, spec in experiment.data.train.items():
        before, now = (options["data"]["train"].get(name) for options in (saved.meta["options"], tree))
        known = saved.meta.get("images", {}).get(name)
        if before != now and known is not None and known == fingerprint(spec.build(scale=experiment.scale).source):
            same += [f"data.train.{name}.{key}" for key in PLACES]
    return same


def _schedule_start(saved: LoadedCheckpoint, experiment: Experiment, how: Resume) -> int:
    """Return the iteration at which the schedule of a longer stage begins. Raises OptionError where that is unsaid."""
    stage, reached = saved.meta["stage"], int(saved.meta["iteration"])
    settings = experiment.settings(stage)
    if how.extend:
        return reached
    start, was = int(saved.meta.get("schedule_start", 0)), saved.meta["options"]["stages"][stage]["iterations"]
    values = [value for value in experiment.stages[stage].values.values() if isinstance(value, Eager)]
    schedules = [value.build() for value in values if value.registry is SCHEDULES]  # those of phases
    done = [step - start for step in (reached // 2, reached - 1) if step >= start]
    if not how.anyway and any(
        schedule.factor(step, was - start) != schedule.factor(step, settings.iterations - start)
        for schedule in (settings.schedule or Constant(), *schedules)
        for step in done
    ):
        more = settings.iterations - reached
        raise OptionError(
            f"stages.{stage}.iterations: was {was}, is {settings.iterations}, but of a stage so long the "
            f"schedule would have given other rates up to here; start it anew over the {more} further iterations with "
            "--extend, or go on in the middle of the longer one with --resume-anyway"
        )
    return start
