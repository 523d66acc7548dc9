"""Trains the stages of an option file.

    torchrun train.py --opt options/quickstart.yml

One process, or as many as torchrun starts, on the CPU or on GPUs. Reads top to bottom: `main` sets up, `Trainer.run`
goes through the stages, `Trainer.train_step` is one iteration.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from data.overlap import overlap
from data.sampler import StepSampler
from data.training import Mix, Samples, TrainingSet, degrade
from degradations import Batch
from models.experiment import (
    Experiment,
    build_generator,
    load_experiment,
    network_options,
    validation_sets,
    write_schema,
)
from models.report import final_report, next_command, validate
from models.stages.stage import Memo, Phase, Stage
from models.weights import load_weights
from utils import checkpoint, distributed, options
from utils.checkpoint import Checkpoints, LoadedCheckpoint, SaveFailed, SaveRefused
from utils.distributed import AgreedError, Processes
from utils.evaluate import mean_scores
from utils.fields import OptionError
from utils.loading import loader_options
from utils.lock import RunLock
from utils.logging import Console, MetricsLog, Progress, memory_mb, table, write_status
from utils.optim import Ema, set_rate
from utils.seeding import generator
from utils.sheet import sheet

EXIT_PREEMPTED = 75
"""Exit status of a run that a signal ended after saving: start it again and it goes on."""

MAY_CHANGE = ("name", "logger", "data.workers", "data.validation", "data.max_unreadable")
"""Options that a resumed run may have otherwise than the run it resumes."""


class Preempted(Exception):  # noqa: N818 - not an error
    """A signal asked the run to stop; everything is saved."""


class Trainer:
    """One run of an experiment: its stages in order, each a loop over optimizer steps."""

    signalled = 0  # what reached this process; `stop_signal` is what all ranks know of
    nonfinite_phase = ""  # the last one that had no finite gradient

    def __init__(
        self, experiment: Experiment, tree: dict[str, Any], processes: Processes, folder: Path, console: Console
    ) -> None:
        self.experiment, self.tree, self.processes = experiment, tree, processes
        self.folder, self.console, self.device = folder, console, processes.device
        default = experiment.degradation.component(scale=experiment.scale)
        self.mix = Mix.build(experiment.data.train, default, experiment.scale)
        self.validation = validation_sets(experiment, default)
        if processes.is_main:
            held_out = {valid.name: valid.entry.source for valid in self.validation}
            trained = {name: e.source for name, e in zip(self.mix.names, self.mix.entries, strict=True)}
            for text in overlap(trained, held_out):
                console.warn(text)
        logger = experiment.logger
        self.checkpoints = Checkpoints(
            folder / "checkpoints", logger.keep_last, logger.keep_best, metric="PSNR", warn=console.warn
        )
        self.log = MetricsLog(folder, tensorboard=logger.tensorboard) if processes.is_main else None
        self.stop_signal = 0
        self.mishaps: set[str] = set()
        self.nonfinite_in_a_row = self.save_failures = 0
        self.scores: dict[str, dict[str, float]] = {}

    # --- the run ---------------------------------------------------------------------------------------------------

    def run(self, only: str | None = None, resume: LoadedCheckpoint | None = None) -> None:
        """Trains all stages that are not finished yet, or one of them."""
        names = list(self.experiment.stages)
        if resume is not None:
            reached = names.index(resume.meta["stage"])
            names = names[reached + bool(resume.meta["final"]) :]
        names = [name for name in names if only in (None, name)]
        if not names:
            self.console.info("nothing is left to train: " + ("the run is finished" if only is None else f"{only} is"))
        self.rehearse(names[1:])
        for name in names:
            at_this_stage = resume is not None and resume.meta["stage"] == name and not resume.meta["final"]
            self.run_stage(name, resume if at_this_stage else None)

    def rehearse(self, names: Sequence[str]) -> None:
        """Builds the stages to come once, so that what only a constructor sees is said now and not after days."""
        for name in names:
            self.share(name)
            self.build(name)
            start = self.experiment.settings(name).init_from
            if start is not None and start.checkpoint is not None and not Path(start.checkpoint).exists():
                raise AgreedError(f"stages.{name}.init_from.checkpoint: there is no {start.checkpoint}")

    def run_stage(self, name: str, resume: LoadedCheckpoint | None = None) -> None:
        """Trains one stage from its hand-over, or from where a checkpoint left it."""
        self.enter(name, resume)
        logger, total = self.experiment.logger, self.settings.iterations
        if self.iteration == 0:
            self.validate()
        progress = self.console.progress(total, initial=self.iteration, desc=name)
        with progress, closing(self.batches(total)) as batches:  # closed, so that no worker is left behind
            while self.iteration < total:
                with progress.waiting():
                    micros = next(batches)
                values = self.train_step(micros)
                report = self.iteration % logger.print_every == 0 or self.iteration == total
                progress.update(1, **(self.report(values, progress) if report else {}))
                if self.iteration % logger.validate_every == 0 or self.iteration == total:
                    self.validate()
                if self.iteration % logger.save_every == 0 or self.iteration == total or self.stop_signal:
                    self.save(final=self.iteration == total)
                if self.stop_signal:
                    raise Preempted(signal.Signals(self.stop_signal).name)

    def enter(self, name: str, resume: LoadedCheckpoint | None) -> None:
        """Builds a stage and fills its networks: from a checkpoint, by hand-over, or freshly."""
        experiment = self.experiment
        self.name, self.settings, self.iteration = name, experiment.settings(name), 0
        self.batch_size = self.share(name)
        self.stage = self.build(name)
        network_g = self.stage.networks["network_g"]
        self.hand_over(network_g)
        self.stage.to(self.device)
        self.ema = Ema(network_g, self.settings.ema_decay)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision() is torch.float16)
        if resume is not None:
            self.restore(resume)
        self.ddp = {n: self.distribute(network) for n, network in self.stage.networks.items()}
        sizes = ", ".join(f"{n} {sum(p.numel() for p in net.parameters()):,}" for n, net in self.stage.networks.items())
        self.console.info(
            f"stage {name}: {sizes} parameters, {self.settings.iterations} iterations of {self.batch_size}"
        )

    def share(self, name: str) -> int:
        """The batch size of a stage. Raises AgreedError if it does not divide among ranks and micro-batches."""
        batch, processes = self.experiment.batch_size(name), self.processes.world_size
        accumulate = self.experiment.settings(name).accumulate
        if batch % (processes * accumulate):
            raise AgreedError(
                f"stages.{name}: a batch of {batch} does not divide among {processes} processes with {accumulate} "
                f"micro-batches each; choose a multiple of {processes * accumulate}"
            )
        return batch

    def build(self, name: str) -> Stage:
        """A stage with fresh networks. Their weights depend on the run seed and the stage's name alone."""
        experiment = self.experiment
        with distributed.together(), torch.random.fork_rng(devices=[]):  # the global generator is left as it was
            torch.manual_seed(int(generator(experiment.seed, "weights", name).integers(2**31)))
            network_g = build_generator(experiment)
            return experiment.stages[name].component(network_g=network_g, scale=experiment.scale)

    def hand_over(self, network_g: nn.Module) -> None:
        """Takes over what `init_from` names."""
        start = self.settings.init_from
        if start is None:
            return
        if start.checkpoint is not None:
            report = load_weights(network_g, start.checkpoint, prefer=start.weights, strict=False)
            self.console.info(f"{start.checkpoint}: {report}")
            return
        assert start.stage is not None
        if (folder := self.checkpoints.finished(start.stage)) is None:
            raise AgreedError(f"stages.{self.name}.init_from: stage {start.stage} is not finished in {self.folder}")
        source = checkpoint.load(folder)
        for name in start.carry:
            if name in self.stage.networks:
                key = name + "_ema" if name == "network_g" and start.weights == "ema" else name
                if key not in source.networks:
                    raise AgreedError(f"stages.{self.name}.init_from.carry: stage {start.stage} has no {name}")
                self.stage.networks[name].load_state_dict(source.networks[key])
        if "optimizer" in start.carry:
            self.load_optimizers(source.state)
        self.console.info(f"stage {self.name} starts from the {start.weights} weights of stage {start.stage}")

    def distribute(self, network: nn.Module) -> nn.Module:
        """The network as its own phase calls it: through DDP where there are several processes."""
        if self.processes.world_size == 1 or not any(p.requires_grad for p in network.parameters()):
            return network
        ids = [self.device.index] if self.device.type == "cuda" else None
        with warnings.catch_warnings():
            # PyTorch 2.13 renames the argument; older ones know only this name.
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(network, device_ids=ids, broadcast_buffers=False)

    # --- batches ---------------------------------------------------------------------------------------------------

    def batches(self, total: int) -> Generator[list[Samples]]:
        """The micro-batches of this rank, one list per step, from the step after the current one."""
        data = self.experiment.data
        in_worker = self.experiment.degradation.settings.where == "worker"
        dataset = TrainingSet(
            self.mix,
            data,
            seed=self.experiment.seed,
            stage=self.name,
            batch_size=self.batch_size,
            in_worker=in_worker,
            views=getattr(self.stage, "views", 1),
        )
        accumulate = self.settings.accumulate
        sampler = StepSampler(
            self.batch_size, self.iteration + 1, total, self.processes.rank, self.processes.world_size, accumulate
        )
        loader = DataLoader(dataset, batch_sampler=sampler, **loader_options(data.workers, self.device))
        micros: list[Samples] = []
        try:
            for samples in loader:
                micros.append(samples)
                if len(micros) == accumulate:
                    yield micros
                    micros = []
        except Exception as error:
            traceback.clear_frames(error.__traceback__)  # they hold the loader, and so its workers
            if isinstance(error, OptionError):  # from a worker its text is a whole traceback
                raise OptionError(str(error).rpartition("OptionError: ")[2].strip()) from error
            raise

    def note_mishaps(self, micros: Sequence[Samples]) -> None:
        """Names each unusable file of any rank once. Raises AgreedError when there are too many."""
        new = dict(item for samples in micros for item in samples.mishaps if item[0] not in self.mishaps)
        if not distributed.agree(torch.tensor([len(new)]))[0]:
            return
        for path, reason in (item for found in distributed.gather_objects(new) for item in found.items()):
            if path not in self.mishaps:
                self.mishaps.add(path)
                self.console.warn(f"left out, another image is drawn instead: {reason}")
        limit = self.experiment.data.max_unreadable
        if len(self.mishaps) > limit:
            raise AgreedError(
                f"data: {len(self.mishaps)} files could not be used, more than max_unreadable ({limit}); "
                "mend or remove those named above"
            )

    # --- one iteration -----------------------------------------------------------------------------------------------

    def train_step(self, micros: Sequence[Samples]) -> dict[str, Tensor]:
        """One iteration: degrade, then each phase that is due, then the moving average. Returns values to log."""
        self.note_mishaps(micros)
        set_rate([phase.optimizer for phase in self.stage.phases()], self.settings.rate_factor(self.iteration))
        self.iteration += 1
        batches = [degrade(samples, self.mix.degradations, self.device) for samples in micros]
        memos: list[Memo] = [{} for _ in batches]
        values: dict[str, Tensor] = {}
        for phase in self.stage.phases():
            if phase.turn.due(self.iteration):
                values.update(self.run_phase(phase, batches, memos))
        self.ema.update(self.stage.networks["network_g"])
        self.stage.after_step()
        return values

    def run_phase(self, phase: Phase, batches: Sequence[Batch], memos: Sequence[Memo]) -> dict[str, Tensor]:
        """Gradients of all micro-batches, a check that they are finite on every rank, then the optimizer step."""
        for name, network in self.stage.networks.items():
            network.requires_grad_(name in phase.networks)
        nets = {n: self.ddp[n] if n in phase.networks else network for n, network in self.stage.networks.items()}
        phase.optimizer.zero_grad(set_to_none=True)
        values: dict[str, Tensor] = {}
        for i, (batch, memo) in enumerate(zip(batches, memos, strict=True)):
            with ExitStack() as stack:
                if i < len(batches) - 1:
                    for name in phase.networks:
                        stack.enter_context(getattr(self.ddp[name], "no_sync", nullcontext)())
                with self.autocast():
                    losses = phase.loss(batch, memo, nets, self.iteration)
                counted = [value for key, value in losses.items() if not key.startswith("_")]
                if not counted:  # no loss is due in this iteration (`every`)
                    return values
                total = torch.stack(counted).sum() / len(batches)
                self.scaler.scale(total).backward()
            for key, value in losses.items():
                values[key] = values.get(key, torch.zeros_like(value)) + value.detach() / len(batches)
        self.scaler.unscale_(phase.optimizer)
        parameters = [p for group in phase.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = nn.utils.clip_grad_norm_(parameters, self.settings.clip_grad_norm or float("inf"))
        values[f"_grad_norm_{phase.name}"] = norm
        self.finish_phase(phase, bool(torch.isfinite(norm)), batches)
        return values

    def finish_phase(self, phase: Phase, finite: bool, batches: Sequence[Batch]) -> None:
        """Steps, unless some rank met a non-finite gradient: then all skip, and the batch is written down."""
        flags = distributed.agree(torch.tensor([int(not finite), self.signalled]))
        self.stop_signal = flags[1]
        if not flags[0]:
            if phase.name == self.nonfinite_phase:  # another phase may still fail each time
                self.nonfinite_in_a_row = 0
        elif not self.scaler.is_enabled():
            self.note_nonfinite(phase, batches, mine=not finite)
            return
        self.scaler.step(phase.optimizer)  # in fp16 the scaler itself skips what overflowed
        self.scaler.update()

    def note_nonfinite(self, phase: Phase, batches: Sequence[Batch], mine: bool) -> None:
        """Writes down a batch with a non-finite gradient. Raises AgreedError after too many in a row."""
        self.nonfinite_in_a_row += 1
        self.nonfinite_phase = phase.name
        path = self.folder / f"nonfinite_{self.name}_{self.iteration}_rank{self.processes.rank}.jsonl"
        if mine:
            lines = [
                f'{{"path": {json.dumps(p)}, "plan": {plan.to_json()}}}\n'
                for b in batches
                for p, plan in zip(b.paths, b.plans, strict=True)
            ]
            with self.despite_full_disk():
                path.write_text("".join(lines), encoding="utf-8")
        self.console.warn(f"step {self.iteration}, phase {phase.name}: the gradient is not finite; skipped, see {path}")
        if self.nonfinite_in_a_row >= self.experiment.logger.nonfinite_in_a_row:
            raise AgreedError(
                f"{self.nonfinite_in_a_row} updates in a row had no finite gradient; lower the learning rate or set "
                f"stages.{self.name}.clip_grad_norm, and start again: the last good checkpoint is kept"
            )

    def precision(self) -> torch.dtype:
        """The dtype of autocast."""
        wish = self.settings.precision
        if wish == "auto":
            wish = "bf16" if self.device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
        return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[wish]

    def autocast(self) -> torch.autocast | nullcontext[None]:
        """Autocast to the stage's precision; nothing in fp32."""
        dtype = self.precision()
        return nullcontext() if dtype is torch.float32 else torch.autocast(self.device.type, dtype)

    # --- watching --------------------------------------------------------------------------------------------------

    def report(self, values: dict[str, Tensor], progress: Progress) -> dict[str, float]:
        """Writes losses and rates to the log; returns the losses for the progress line."""
        if self.log is None:
            return {}
        plain = {key.lstrip("_"): float(value) for key, value in values.items()}
        plain["lr"] = self.stage.phases()[0].optimizer.param_groups[0]["lr"]
        rates = {**progress.rates(), **memory_mb()}
        with self.despite_full_disk():
            self.log.scalars(self.name, self.iteration, {**plain, **rates})
        return {key: plain[key] for key in values if not key.startswith("_")}

    def validate(self) -> None:
        """Scores the moving average on every validation set and writes sample images."""
        for valid in self.validation:
            shown = self.experiment.logger.images
            rows, strips = validate(self.ema.network, valid, self.device, self.processes.rank, shown)
            self.scores[valid.name] = rows
            text = ", ".join(f"{metric} {value:.4g}" for metric, value in rows.items())
            self.console.info(f"{self.name} {self.iteration}: {valid.name} {text}")
            if self.log is not None:
                with self.despite_full_disk():
                    self.log.scalars(self.name, self.iteration, {f"{valid.name}/{k}": v for k, v in rows.items()})
                    if strips:
                        self.log.images(self.name, self.iteration, valid.name, sheet(strips))

    @contextmanager
    def despite_full_disk(self) -> Iterator[None]:
        """For what training can do without: a failure to write is warned of once."""
        try:
            yield
        except OSError as error:
            self.console.warn(f"{self.folder}: logs cannot be written, training goes on: {error}", once="log")

    def metrics(self) -> dict[str, float]:
        """What `best` is judged by: the means over the validation sets."""
        return mean_scores(list(self.scores.values()))

    # --- state -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything besides weights that the next step depends on."""
        return {
            "optimizers": {phase.name: phase.optimizer.state_dict() for phase in self.stage.phases()},
            "scaler": self.scaler.state_dict(),
            "stage": self.stage.state_dict(),
            "scores": self.scores,
        }

    def load_optimizers(self, state: dict[str, Any]) -> None:
        """Restores the optimizers by phase name. Rates, betas and decay stay those of the option file."""
        for phase in self.stage.phases():
            if phase.name in state["optimizers"]:
                groups = phase.optimizer.param_groups
                chosen = [{k: v for k, v in group.items() if k != "params"} for group in groups]
                phase.optimizer.load_state_dict(state["optimizers"][phase.name])
                for group, own in zip(phase.optimizer.param_groups, chosen, strict=True):
                    group.update(own)

    def restore(self, saved: LoadedCheckpoint) -> None:
        """Takes the stage up where a checkpoint left it."""
        for name, network in [*self.stage.networks.items(), ("network_g_ema", self.ema.network)]:
            network.load_state_dict(saved.networks[name])
        self.load_optimizers(saved.state)
        self.scaler.load_state_dict(saved.state["scaler"])
        self.stage.load_state_dict(saved.state["stage"])
        self.scores = saved.state["scores"]
        self.iteration = saved.meta["iteration"]
        if self.log is not None:
            self.log.resume(self.name, self.iteration)

    def save(self, final: bool) -> None:
        """Writes a checkpoint; a failure (a full disk) is only warned of, until there were too many."""
        networks = {n: network.state_dict() for n, network in self.stage.networks.items()}
        failed = 0
        if self.processes.is_main:
            try:
                self.checkpoints.save(
                    self.name,
                    self.iteration,
                    {**networks, "network_g_ema": self.ema.network.state_dict()},
                    self.state_dict(),
                    describe={"network_g": {"network": network_options(self.experiment, self.tree)}},
                    metrics=self.metrics(),
                    meta={"options": self.tree},
                    final=final,
                )
            except (SaveFailed, SaveRefused) as error:
                failed = 1
                self.console.warn(f"checkpoint not saved, training goes on: {error}")
        self.save_failures = self.save_failures + 1 if distributed.agree(torch.tensor([failed]))[0] else 0
        if self.save_failures >= self.experiment.logger.save_failures or (self.save_failures and final):
            raise AgreedError(
                f"{self.save_failures} checkpoints in a row could not be saved in {self.folder}; free some disk space"
            )

    def close(self) -> None:
        """Writes out the logs."""
        if self.log is not None:
            with self.despite_full_disk():
                self.log.close()

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Remembers a signal; the loop ends after the current step, once all ranks know of it."""
        self.signalled = number


# --- the command line ------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--opt", type=Path, metavar="FILE", help="option file (YAML, or JSON with // comments)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="override an option, such as degradation.steps.jpeg.prob=0",
    )
    parser.add_argument("--stage", metavar="NAME", help="train this stage only")
    parser.add_argument(
        "--resume",
        default="auto",
        metavar="auto|none|PATH",
        help="go on from the run's newest checkpoint (auto), from a given one, or start anew (none)",
    )
    parser.add_argument("--resume-anyway", action="store_true", help="resume although options differ")
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where run folders are made")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, run one step of each stage and one validation, leave nothing behind",
    )
    parser.add_argument("--schema", action="store_true", help="write options/schema.json for editors")
    return parser.parse_args()


def choose_resume(
    folder: Path, tree: dict[str, Any], processes: Processes, console: Console, args: argparse.Namespace
) -> LoadedCheckpoint | None:
    """The checkpoint to go on from, said in words. Raises OptionError when options differ in what matters."""
    path = None if args.resume in ("auto", "none") else Path(args.resume)
    with distributed.together():
        if processes.is_main and path is None:  # one rank decides, the others follow
            path = Checkpoints(folder / "checkpoints", warn=console.warn).newest()
            if path is not None and args.resume == "none":
                raise OptionError(
                    f"{folder} already holds checkpoints; choose another `name`, or leave out --resume none"
                )
    if not (chosen := distributed.broadcast_string(str(path or ""))):
        return None
    with distributed.together():
        found = checkpoint.load(chosen)
        refuse_differences(found, tree, args.resume_anyway)
    why = "the newest in the run folder" if args.resume == "auto" else "as --resume says"
    console.info(
        f"resuming from {found.folder} ({why}): stage {found.meta['stage']}, iteration {found.meta['iteration']}"
    )
    return found


def refuse_differences(found: LoadedCheckpoint, tree: dict[str, Any], accepted: bool) -> None:
    """Raises OptionError if a checkpoint was trained with options that differ in what matters, unless accepted."""
    if found.meta["stage"] not in tree["stages"]:
        raise OptionError(f"{found.folder} is of stage {found.meta['stage']}, which the option file does not have")
    different = [d for d in options.differences(found.meta["options"], tree) if not d.startswith(MAY_CHANGE)]
    if different and not accepted:
        raise OptionError(
            f"{found.folder} was trained with other options:\n  "
            + "\n  ".join(different)
            + "\nresume with the old ones, choose another `name`, or accept the new ones with --resume-anyway"
        )


def dry_run(experiment: Experiment, tree: dict[str, Any], processes: Processes, console: Console) -> None:
    """Builds everything, times two steps of each stage and one validation, and prints what the run will cost."""
    rows = []
    with tempfile.TemporaryDirectory() if processes.is_main else nullcontext("") as own:
        folder = Path(distributed.broadcast_string(own))
        quiet = replace(experiment, logger=replace(experiment.logger, tensorboard=False))
        with distributed.together():
            trainer = Trainer(quiet, tree, processes, folder, console)
        for name, spec in experiment.stages.items():
            start = spec.settings.init_from
            trainer.enter(name, None)
            batches = trainer.batches(3)
            trainer.train_step(next(batches))
            before = time.perf_counter()
            trainer.train_step(next(batches))
            seconds = time.perf_counter() - before
            counts = [sum(p.numel() for p in net.parameters()) for net in trainer.stage.networks.values()]
            hours = seconds * trainer.settings.iterations / 3600
            trainer.save(final=True)
            rows.append(
                [
                    name,
                    " + ".join(f"{c:,}" for c in counts),
                    f"{seconds:.2f}",
                    f"{trainer.settings.iterations:,}",
                    f"{hours:.2f}",
                    f"{max(memory_mb().values()):,.0f}",
                    start.stage if start and start.stage else "-",
                ]
            )
        trainer.validate()
        distributed.barrier()  # the main process removes the folder
    console.info(table(["stage", "parameters", "s/iteration", "iterations", "hours", "memory MB", "starts from"], rows))
    console.info("dry run: everything was built and run once; nothing is left behind")


def main() -> int:
    """Runs the command line. Returns the exit status."""
    args = arguments()
    if args.schema:
        Console().info(f"wrote {write_schema(Path(__file__).parent / 'options')}")
        return 0
    if args.opt is None:
        Console().error("--opt FILE is missing; try --opt options/quickstart.yml")
        return 2
    console = Console()
    try:
        processes = distributed.start(args.device)
        console = Console(processes.rank)
        with distributed.together():
            experiment, tree = load_experiment(args.opt, args.set)
            if args.stage is not None and args.stage not in experiment.stages:
                raise OptionError(f"--stage {args.stage}: the file has the stages {', '.join(experiment.stages)}")
        if args.dry_run:
            dry_run(experiment, tree, processes, console)
            return 0
        return train(experiment, tree, processes, console, args)
    except (OptionError, OSError) as error:
        if console.is_main or not isinstance(error, AgreedError):
            console.error(str(error))
        return 1
    finally:
        distributed.stop()


def train(
    experiment: Experiment, tree: dict[str, Any], processes: Processes, console: Console, args: argparse.Namespace
) -> int:
    """Trains in the run folder, with a lock on it and its status written there."""
    folder = args.runs / experiment.name

    def status(state: str, reason: str = "") -> None:
        if processes.is_main:
            try:
                write_status(folder, state, reason)
            except OSError as error:
                console.warn(f"{folder}: status.json cannot be written: {error}")

    with ExitStack() as held:
        with distributed.together():
            if processes.is_main:
                held.enter_context(RunLock(folder))
                Checkpoints(folder / "checkpoints").clean()
        resume = choose_resume(folder, tree, processes, console, args)
        try:
            with distributed.together():
                trainer = Trainer(experiment, tree, processes, folder, console)
                if processes.is_main:
                    (folder / "options.yml").write_text(options.dump(tree), encoding="utf-8")
            held.callback(trainer.close)
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
                signal.signal(number, trainer.on_signal)
            status("running")
            trainer.run(args.stage, resume)
            if processes.is_main and args.stage is None:
                final_report(folder, experiment, trainer.validation, processes.device, console)
                if (command := next_command(folder, experiment, str(args.opt))) is not None:
                    console.info(f"\nnext, benchmark it:\n  {command}")
            status("finished")
            return 0
        except Preempted as reason:
            console.info(f"stopped by {reason}; everything is saved, the same command goes on")
            status("preempted", str(reason))
            return EXIT_PREEMPTED
        except BaseException as error:
            known = isinstance(error, (OptionError, OSError))
            status("failed", str(error) if known else f"{type(error).__name__}: {error}")
            raise


if __name__ == "__main__":
    sys.exit(main())
