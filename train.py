"""Train the stages of an option file.

    python train.py --opt options/quickstart.yml

One process, or as many as torchrun starts, on the CPU or on GPUs. Reads top to bottom: `main` sets up, `Trainer.run`
goes through the stages, `Trainer.train_step` is one iteration.
"""

# ruff: noqa: E402
import signal
import sys
import warnings

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while PyTorch is imported needs no page of tracebacks

from collections import deque
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from data.ahead import ahead, grouped, loader_options
from data.sampler import LookingAhead, StepSampler
from data.training import Mix, TrainingSet, degrade
from degradations import Batch
from models.stages.stage import Memo, Phase
from models.training.building import (
    build_stage,
    distribute,
    hand_over,
    load_network,
    load_optimizers,
    make_ready,
    rehearse,
    stand_ins,
    try_building,
)
from models.training.experiment import Experiment, load_experiment, network_options, validation_sets
from models.training.rehearsal import try_out
from models.training.resume import Resume, Saver, choose_resume
from models.training.validation import Diverged, final_report, next_command
from models.training.watch import Watcher
from utils.logging import Console, reserve, write_status
from utils.machine import need_compiler, slow_half
from utils.optim import Ema, at_average, set_rate, step_fused, step_scaled, step_unless
from utils.options import files as option_files
from utils.options.arguments import Arg, Overrides, parse
from utils.options.fields import Count, OptionError
from utils.processes import distributed
from utils.processes.distributed import AgreedError, Agreement, Processes
from utils.processes.signals import handled
from utils.storage.checkpoint import Checkpoints, LoadedCheckpoint
from utils.storage.files import replace_text
from utils.storage.lock import RunLock
from utils.storage.mirror import Mirror
from utils.storage.places import Place, is_url

EXIT_PREEMPTED = 75
"""Exit status of a run that a signal ended after saving: start it again and it goes on."""


class Preempted(Exception):  # noqa: N818 - not an error
    """A signal asked the run to stop; everything is saved."""


class Trainer:
    """One run of an experiment: its stages in order, each a loop over optimizer steps."""

    signalled = 0  # what reached this process; `stop_signal` is what all ranks know of
    schedule_start = 0  # the iteration at which the learning-rate schedule began

    def __init__(
        self,
        experiment: Experiment,
        tree: dict[str, Any],
        processes: Processes,
        folder: Path,
        console: Console,
        how: Resume = Resume(),  # noqa: B008 - frozen
        mirror: Mirror | None = None,
    ) -> None:
        self.experiment, self.tree, self.processes, self.how = experiment, tree, processes, how
        self.folder, self.console, self.device = folder, console, processes.device
        default = experiment.degradation.build(scale=experiment.scale)
        self.mix = Mix.build(experiment.data.train, default, experiment.scale, experiment.data.cache)
        self.validation = validation_sets(experiment, default)
        logger = experiment.logger
        self.watcher = Watcher(logger, self.validation, folder, processes, console, tree)
        self.checkpoints = Checkpoints(
            folder / "checkpoints",
            logger.keep_last,
            logger.keep_best,
            metric=logger.best_by,
            lower_is_better=self.watcher.scorer.lower_is_better(logger.best_by),
            warn=console.warn,
        )
        self.watcher.tell_of_images(self.mix)
        self.images = self.mix.fingerprints() if processes.is_main else {}
        self.saver = Saver(self.checkpoints, logger.save_failures, processes, console, mirror)
        self.stop_signal = 0
        self.unsettled: deque[tuple[Phase, int, Sequence[Batch], Agreement]] = deque()

    # --- the run ---------------------------------------------------------------------------------------------------

    def run(self, resume: LoadedCheckpoint | None = None) -> None:
        """Train all stages that are not finished yet, or one of them."""
        names = list(self.experiment.stages)
        if resume is not None:
            names = names[names.index(resume.meta["stage"]) :]
            if resume.meta["iteration"] >= self.experiment.settings(names[0]).iterations:
                names, resume = names[1:], None
        resumed = None if resume is None else names[0]
        only = self.how.only
        names = [name for name in names if only in (None, name)]
        if not names:
            self.console.info("nothing is left to train: " + ("the run is finished" if only is None else f"{only} is"))
            return
        with distributed.together():
            if self.processes.is_main:  # not before, since it is to say what was done
                replace_text(self.folder / "options.yml", option_files.dump(self.tree))
        for name in names[1:]:
            rehearse(self.experiment, name, self.processes)
        for name in names:
            self.run_stage(name, resume if name == resumed else None)

    def run_stage(self, name: str, resume: LoadedCheckpoint | None = None) -> None:
        """Train one stage from its hand-over, or from where a checkpoint left it. Once, it goes back to the newest
        checkpoint where gradients are not finite: what was transient is cured, what was not ends the run."""
        if resume is None:
            self.begin(name)
        self.enter(name, resume)
        try:
            self.iterate(name)
        except Diverged as error:
            how = replace(self.how, wish="auto", anyway=True)
            good = choose_resume(how, self.folder, self.experiment, self.tree, self.processes, self.console)
            if good is None or good.meta["stage"] != name or good.meta["iteration"] >= self.settings.iterations:
                raise AgreedError(f"{error}, and there is no checkpoint of stage {name} to go back to") from error
            self.console.warn(f"{error}; going back to the newest checkpoint, once")
            self.enter(name, good)
            try:
                self.iterate(name)
            except Diverged as again:
                raise AgreedError(f"{again}, also from the last good checkpoint, which is kept") from again

    def begin(self, name: str) -> None:
        """Make room for a stage from its start: what an earlier training of it left is kept elsewhere."""
        with distributed.together():
            aside = self.checkpoints.set_aside(name) if self.processes.is_main else None
            if aside is not None:
                self.console.info(f"stage {name} is trained anew; its checkpoints of before are kept in {aside}")
                self.watcher.resume(name, -1)

    def iterate(self, name: str) -> None:
        """Do what is left of the entered stage, with logs, validations and checkpoints in their turn."""
        logger, total = self.experiment.logger, self.settings.iterations
        if self.iteration == 0:
            self.validate()
        progress = self.console.progress(total, initial=self.iteration, desc=name)
        with progress, closing(self.batches(total)) as batches:  # closed, so that no worker is left behind
            while self.iteration < total:
                with progress.waiting():
                    micros = next(batches)
                values = self.train_step(micros)
                last = self.iteration == total
                due = last or self.iteration % logger.print_every == 0
                shown = self.watcher.report(name, self.iteration, values, self.rate, progress) if due else {}
                progress.update(1, **shown)
                saves = last or self.iteration % logger.save_every == 0
                if saves or self.stop_signal:
                    self.settle()
                if last or (self.iteration % logger.validate_every == 0 and not self.stop_signal):
                    self.validate()
                well = not self.watcher.nonfinite_in_a_row  # the newest checkpoint is one to go back to
                unusable = self.watcher.too_many_mishaps
                if (well and (saves or unusable)) or last or self.stop_signal:
                    self.save(final=last)
                if unusable:
                    raise AgreedError(unusable)
                if self.stop_signal:
                    raise Preempted(signal.Signals(self.stop_signal).name)

    def enter(self, name: str, resume: LoadedCheckpoint | None) -> None:
        """Build a stage and fill its networks: from a checkpoint, by hand-over, or freshly."""
        self.name, self.settings = name, self.experiment.settings(name)
        self.watcher.enter_stage()
        self.iteration = self.schedule_start = 0
        self.batch_size = self.experiment.batch_size(name)
        self.stage = build_stage(self.experiment, name, self.processes)
        performance = self.experiment.performance
        performance.lay_out(self.stage, self.device)  # before optimizers are loaded, whose state is laid out alike
        if resume is None:
            with distributed.together():  # machines may see other files
                done = hand_over(self.stage, name, self.settings.init_from, self.checkpoints)
            self.console.info(done)
        self.ema = Ema(self.stage.networks["network_g"], self.settings.ema_decay, self.settings.ema_power)
        self.stage.ema_network = self.ema.network
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.settings.dtype(self.device) is torch.float16)
        if resume is not None:
            self.restore(resume)
        performance.speed_up(self.stage)
        self.unsettled.clear()
        self.ddp = {n: distribute(network, self.processes, self.stage) for n, network in self.stage.networks.items()}
        sizes = ", ".join(f"{n} {sum(p.numel() for p in net.parameters()):,}" for n, net in self.stage.networks.items())
        extent = f"{self.settings.iterations} iterations of {self.batch_size}"
        self.console.info(f"stage {name}: {sizes} parameters, {extent}")

    # --- batches ---------------------------------------------------------------------------------------------------

    def batches(self, total: int) -> Generator[list[Batch]]:
        """Give the micro-batches of this rank, one list per step, from the step after the current one."""
        data = self.experiment.data
        dataset = TrainingSet(
            self.mix,
            data,
            seed=self.experiment.seed,
            stage=self.name,
            batch_size=self.batch_size,
            in_worker=self.experiment.degradation.settings.where == "worker",
            views=self.stage.views,
            positive=self.stage.positive,
        )
        numbers = StepSampler(
            self.batch_size,
            first_step=self.iteration + 1,
            last_step=total,
            rank=self.processes.rank,
            world_size=self.processes.world_size,
            accumulate=self.settings.accumulate,
            pool=data.pair_pool,
            seed=self.experiment.seed,
            stage=self.name,
        )
        sampler = LookingAhead(numbers, max(1, data.workers))
        with warnings.catch_warnings(record=True) as said:  # it says so now and when it starts
            warnings.filterwarnings("always", "This DataLoader will create")
            loader = DataLoader(dataset, batch_sampler=sampler, **loader_options(data.workers, self.device))
        if said:
            self.console.warn(f"data.workers: {data.workers} are more than this machine has cores for", once="workers")
            warnings.filterwarnings("ignore", "This DataLoader will create")
        steps = grouped(loader, self.settings.accumulate)
        prefetches = self.experiment.performance.prefetches(self.device)
        yield from ahead(steps, self.mix.degradations, self.device) if prefetches else steps

    # --- one iteration -----------------------------------------------------------------------------------------------

    def train_step(self, micros: Sequence[Batch]) -> dict[str, Tensor]:
        """Do one iteration: degrade, each phase that is due, the moving average. Returns values to log."""
        self.watcher.note_mishaps(micros)
        self.experiment.performance.begin_step()
        for phase in self.stage.phases():
            set_rate(phase.optimizer, self.settings.rate_factor(self.iteration, phase.schedule, self.schedule_start))
        self.iteration += 1
        batches = [degrade(batch, self.mix.degradations, self.device) for batch in micros]
        if self.experiment.gray:
            batches = [batch.gray() for batch in batches]
        memos: list[Memo] = [{} for _ in batches]
        values: dict[str, Tensor] = {}
        for phase in self.stage.phases():
            if phase.turn.due(self.iteration):
                values.update(self.run_phase(phase, batches, memos))
        network_g = self.stage.networks["network_g"]
        with at_average(self.stage.phases()[0].optimizer, network_g):
            self.ema.update(network_g, self.iteration)
        self.stage.after_step()
        return values

    def run_phase(self, phase: Phase, batches: Sequence[Batch], memos: Sequence[Memo]) -> dict[str, Tensor]:
        """Add up the gradients of all micro-batches, see whether they are finite on every rank, and step."""
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
                if counted:  # else no loss is due in this iteration (`every`)
                    self.scaler.scale(torch.stack(counted).sum() / len(batches)).backward()
            for key, value in losses.items():
                values[key] = values.get(key, torch.zeros_like(value)) + value.detach() / len(batches)
        parameters = [p for group in phase.optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not parameters:
            return values
        self.scaler.unscale_(phase.optimizer)
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if self.settings.clip_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.settings.clip_grad_norm, norm)
        values[f"_grad_norm_{phase.name}"] = norm
        self.finish_phase(phase, torch.isfinite(norm), batches)
        return values

    def finish_phase(self, phase: Phase, finite: Tensor, batches: Sequence[Batch]) -> None:
        """Step, unless some rank met a non-finite gradient: then all skip."""
        told = [torch.full_like(finite, n, dtype=torch.int) for n in (self.signalled, len(self.watcher.new_mishaps))]
        agreement = Agreement(torch.stack([(~finite).int(), *told]))
        if self.scaler.is_enabled():
            step_scaled(phase.optimizer, self.scaler)
        elif phase.optimizer.param_groups[0].get("fused"):
            step_fused(phase.optimizer, agreement.flags[0])
        else:
            step_unless(phase.optimizer, agreement.read()[0])
        self.unsettled.append((phase, self.iteration, batches, agreement))
        self.settle(in_flight=len(self.stage.phases()) if self.device.type == "cuda" else 0)

    def settle(self, in_flight: int = 0) -> None:
        """Heed what the ranks agreed on: signals, unreadable files, steps that were skipped.

        On a GPU the newest `in_flight` agreements may still be on their way, and the loop hears of a skip an iteration
        later, so that it never waits for the device. Without a GPU it hears at once.
        """
        while len(self.unsettled) > in_flight:
            phase, iteration, batches, agreement = self.unsettled.popleft()
            nonfinite, self.stop_signal, mishaps = agreement.read()
            if mishaps:
                self.watcher.share_mishaps(self.experiment.data.max_unreadable)
            if not nonfinite:
                self.watcher.finite(phase.name)
            # In fp16 the scale is halved until it cannot be to blame.
            elif not self.scaler.is_enabled() or self.scaler.get_scale() < 1:
                self.watcher.nonfinite(self.name, iteration, phase.name, batches)

    @property
    def rate(self) -> float:
        """The newest learning rate, of the generator."""
        return self.stage.phases()[0].optimizer.param_groups[0]["lr"]

    def autocast(self) -> torch.autocast | nullcontext[None]:
        """Return autocast to the stage's precision; nothing in fp32."""
        dtype = self.settings.dtype(self.device)
        return nullcontext() if dtype is torch.float32 else torch.autocast(self.device.type, dtype)

    def validate(self) -> None:
        """Score the moving average on every validation set; a signal meanwhile ends it, and then the run."""
        restores = self.experiment.restores(self.name)
        self.watcher.validate(
            self.name, self.iteration, self.ema.network, self.device, lambda: self.signalled, restores
        )
        self.stop_signal = distributed.agree(torch.tensor([max(self.signalled, self.stop_signal)]))[0]

    # --- state -----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything besides weights that the next step depends on."""
        return {
            "optimizers": {phase.name: phase.optimizer.state_dict() for phase in self.stage.phases()},
            "scaler": self.scaler.state_dict(),
            "stage": self.stage.state_dict(),
            "scores": self.watcher.scores,
        }

    def restore(self, saved: LoadedCheckpoint) -> None:
        """Take the stage up where a checkpoint left it. Raises AgreedError for one of other networks or optimizers."""
        try:
            for name, network in [*self.stage.networks.items(), ("network_g_ema", self.ema.network)]:
                load_network(network, saved.networks.get(name, {}), name)
            load_optimizers(self.stage, saved.state["optimizers"], "the optimizer")
        except AgreedError as error:
            advice = "resume with the options that it was trained with, or choose another `name`"
            raise AgreedError(f"{saved.folder}: {error}; {advice}") from error
        if saved.state["scaler"]:  # else it was saved in another precision than fp16
            self.scaler.load_state_dict(saved.state["scaler"])
        self.stage.load_state_dict(saved.state["stage"])
        self.watcher.scores, self.watcher.scored_at = saved.state["scores"], saved.meta.get("metrics_iteration")
        self.iteration, self.schedule_start = saved.meta["iteration"], saved.meta.get("schedule_start", 0)
        self.watcher.resume(self.name, self.iteration)

    def save(self, final: bool) -> None:
        """Save a checkpoint."""
        networks = {n: network.state_dict() for n, network in self.stage.networks.items()}
        self.saver.save(
            self.name,
            self.iteration,
            {**networks, "network_g_ema": self.ema.network.state_dict()},
            self.state_dict(),
            describe={"network_g": {"network": network_options(self.experiment, self.tree)}},
            metrics=self.watcher.means(),
            meta={
                "options": self.tree,
                "metrics_iteration": self.watcher.scored_at,
                "schedule_start": self.schedule_start,
                "images": self.images,
            },
            final=final,
        )

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """Remember a signal; the loop ends after the step, once all ranks know of it."""
        self.signalled = number


# --- the command line ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arguments:
    """Train the stages of an option file."""

    opt: Annotated[Path | None, Arg("FILE")] = None
    """Option file (YAML, or JSON with // comments)."""
    overrides: Overrides = ()
    """Override an option, such as degradation.steps.jpeg.prob=0."""
    stage: str | None = None
    """Train this stage only."""
    resume: Annotated[str, Arg("auto|none|PATH")] = "auto"
    """Go on from the run's newest checkpoint (auto), from a given one, or start anew (none)."""
    resume_anyway: bool = False
    """Resume although options differ."""
    extend: bool = False
    """Where a stage's `iterations` are more than they were: start its learning-rate schedule anew."""
    runs: Annotated[str, Arg("DIR|URL")] = "runs"
    """Where run folders are made. At a URL, such as s3://bucket/runs (extra `cloud`), they are copies of those in
    `runs`, made at each save, and a run goes on from there on any machine."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dry_run: bool = False
    """Build everything, run two steps of each stage and one validation, leave nothing behind."""
    profile: Count = 0
    """Profile N iterations of the first stage (or of --stage): a trace, the largest costs, what the device idles."""
    schema: bool = False
    """Write the schemas of option files for editors: options/schema.json, options/test/, options/ablation/."""

    @property
    def local_runs(self) -> Path:
        """The folder of run folders on this machine."""
        return Path("runs" if is_url(self.runs) else self.runs)

    def __post_init__(self) -> None:
        if self.opt is None and not self.schema:
            raise ValueError("--opt FILE is missing; try --opt options/quickstart.yml")


def main() -> int:
    """Run the command line. Returns the exit status."""
    args = parse(Arguments)
    if args.schema or args.opt is None:
        from models.ablating.schemas import write_schemas  # loads what no run needs

        Console().info(f"wrote {', '.join(map(str, write_schemas(Path(__file__).parent / 'options')))}")
        return 0
    console = Console()
    try:
        processes = distributed.start(args.device)
        console = Console(processes.rank)
        with distributed.together():
            experiment, tree = load_experiment(args.opt, args.overrides)
            if args.stage is not None and args.stage not in experiment.stages:
                raise OptionError(f"--stage {args.stage}: the file has the stages {', '.join(experiment.stages)}")
            if experiment.performance.compile != "none":
                need_compiler(processes.device, "performance.compile")
        names = list(experiment.stages) if args.stage is None else [args.stage]
        for dtype in {experiment.settings(name).dtype(processes.device) for name in names}:
            if (warning := slow_half(dtype, processes.device)) is not None:
                console.warn(warning)
        try_building(experiment, names, processes)
        if args.dry_run:
            with stand_ins(experiment, tree, processes, console) as (tried, its_tree):
                try_run(tried, its_tree, processes, console, args)
            return 0
        make_ready(experiment, tree, processes, console)
        if args.profile:
            try_run(experiment, tree, processes, console, args)
            return 0
        return train(experiment, tree, processes, console, args)
    except (OptionError, OSError) as error:
        if console.is_main or not isinstance(error, AgreedError):
            console.error(str(error))
        return 1
    except KeyboardInterrupt:  # while it trains, `handled` makes it end with a checkpoint
        console.error("interrupted")
        return 130
    finally:
        distributed.stop()


def try_run(
    experiment: Experiment, tree: dict[str, Any], processes: Processes, console: Console, args: Arguments
) -> None:
    """Do a dry run or a profile, in a folder that is gone afterwards."""
    quiet = replace(experiment, logger=replace(experiment.logger, tensorboard=False, wandb=False))
    run = partial(Trainer, quiet, tree, processes, console=console)
    try_out(lambda folder: run(folder=folder), args.stage, args.profile, args.local_runs / experiment.name)


def train(experiment: Experiment, tree: dict[str, Any], processes: Processes, console: Console, args: Arguments) -> int:
    """Train in the run folder, with a lock on it and its status written there."""
    folder, mirror = args.local_runs / experiment.name, None
    status = partial(write_status, folder, console)
    with ExitStack() as held:
        with distributed.together():
            if processes.is_main:
                held.enter_context(RunLock(folder))
                if is_url(args.runs):
                    mirror = Mirror(folder, Place(f"{args.runs.rstrip('/')}/{experiment.name}"), console.warn)
                    if brought := mirror.fetch():
                        console.info(f"brought from {mirror.place}: {', '.join(brought)}")
                    held.callback(mirror.push)
                console.keep(folder / "console.log")
                reserve(folder)
                Checkpoints(folder / "checkpoints").clean()
        how = Resume(args.resume, args.resume_anyway, args.extend, args.stage)
        resume = choose_resume(how, folder, experiment, tree, processes, console)
        try:
            with distributed.together():
                trainer = Trainer(experiment, tree, processes, folder, console, how, mirror)
            held.callback(trainer.watcher.close)
            status("running")
            with handled(trainer.on_signal):
                trainer.run(resume)
            if processes.is_main and args.stage is None:
                final_report(folder, experiment, trainer.validation, trainer.watcher.scorer, processes.device, console)
                if (command := next_command(folder, experiment, Path(sys.argv[0]).with_name("test.py"))) is not None:
                    console.info(f"\nnext, benchmark it:\n  {command}")
            status("finished", "" if args.stage is None else f"stage {args.stage}")
            return 0
        except Preempted as reason:
            console.info(f"stopped by {reason}; everything is saved, the same command goes on")
            status("preempted", str(reason))
            return EXIT_PREEMPTED
        except BaseException as error:
            status(
                "failed",
                ("" if isinstance(error, (OptionError, OSError)) else f"{type(error).__name__}: ") + str(error),
            )
            raise


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
