"""Building a stage: fresh networks, what it takes over from elsewhere, and how its networks are called."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from data.source import Source
from models.network import Network
from models.networks.batch_norm import GlobalBatchNorm2d
from models.stages.stage import Handover, Stage
from models.training.experiment import Experiment, build_generator, check_experiment
from models.weights.files import weight_files
from models.weights.load import LoadReport, advice, load_weights, read_weights
from utils.logging import Console
from utils.optim import COUNTED
from utils.options.fields import OptionError
from utils.processes import distributed
from utils.processes.distributed import AgreedError, Processes
from utils.seeding import generator
from utils.storage import checkpoint
from utils.storage.checkpoint import Checkpoints


def make_ready(experiment: Experiment, tree: dict[str, Any], processes: Processes, console: Console) -> None:
    """Take the steps of `prepare:`, and check the options once more, now that the pools which they name are there."""
    if experiment.prepare is None:
        return
    from data.prepare.steps import prepare  # loads as long as PyTorch's half, and few runs want it

    prepare(experiment.prepare, experiment.scale, processes, console, _held_out(experiment))
    with distributed.together():
        check_experiment({**tree, "prepare": None})


@contextmanager
def stand_ins(
    experiment: Experiment, tree: dict[str, Any], processes: Processes, console: Console
) -> Iterator[tuple[Experiment, dict[str, Any]]]:
    """Give an experiment, with stand-ins in a temporary folder for what its `prepare:` will make, whose steps are
    checked and their costs said."""
    if (settings := experiment.prepare) is None:
        yield experiment, tree
        return
    from data.prepare.rehearsal import rehearse
    from data.prepare.steps import check

    check(settings, experiment.scale, processes, console, _held_out(experiment))
    with distributed.temporary_folder() as folder:
        rehearse(settings, experiment.scale, folder, processes, console)
        moved = _moved({**tree, "prepare": None}, Path(settings.out).expanduser().resolve(), folder)
        with distributed.together():
            tried = check_experiment(moved)
        yield tried, moved


def _moved(value: Any, old: Path, new: Path) -> Any:  # noqa: ANN401
    """Return an option tree whose paths below a folder lead below another."""
    if isinstance(value, dict):
        return {key: _moved(inner, old, new) for key, inner in value.items()}
    if isinstance(value, list):
        return [_moved(inner, old, new) for inner in value]
    if isinstance(value, str) and (path := Path(value).expanduser().resolve()).is_relative_to(old):
        return str(new / path.relative_to(old))
    return value


def _held_out(experiment: Experiment) -> dict[str, Source]:
    with distributed.together():
        return {name: spec.build(scale=experiment.scale).source for name, spec in experiment.data.validation.items()}


def build_stage(experiment: Experiment, name: str, processes: Processes) -> Stage:
    """Return a stage with fresh networks on the CPU. Their weights depend on the run seed and the stage's name alone.

    Raises AgreedError if its batch does not divide among ranks and micro-batches, or a constructor refuses.
    """
    batch, accumulate = experiment.batch_size(name), experiment.settings(name).accumulate
    if batch % (processes.world_size * accumulate):
        raise AgreedError(
            f"stages.{name}: a batch of {batch} does not divide among {processes.world_size} processes with "
            f"{accumulate} micro-batches each; choose a multiple of {processes.world_size * accumulate}"
        )
    with distributed.together(), torch.random.fork_rng(devices=[]):  # the global generator is left as it was
        torch.manual_seed(int(generator(experiment.seed, "weights", name).integers(2**31)))
        network_g = build_generator(experiment)
        return experiment.stages[name].build(network_g=network_g, scale=experiment.scale)


def try_building(experiment: Experiment, names: Sequence[str], processes: Processes) -> None:
    """Build each of these stages once, so that what only constructors see is said before hours of preparation.

    Raises AgreedError for what `build_stage` refuses, and for a `carry` of what its stage or the earlier one lacks.
    """
    has: dict[str, set[str]] = {}
    for name in names:
        has[name] = set(build_stage(experiment, name, processes).networks)
        start = experiment.settings(name).init_from
        if start is None or start.stage is None:
            continue
        for stage in (name, start.stage):
            if stage in has and (lacking := set(start.carry) - has[stage] - {"optimizer"}):
                raise AgreedError(
                    f"stages.{name}.init_from.carry: stage {stage} has no {' and no '.join(sorted(lacking))}, "
                    f"only {', '.join(sorted(has[stage]))}"
                )


def rehearse(experiment: Experiment, name: str, processes: Processes) -> None:
    """Fill a stage to come once from the files it starts from, so that what is wrong is said now and not after days."""
    start = experiment.settings(name).init_from
    if start is not None and start.checkpoint is not None:
        stage = build_stage(experiment, name, processes)
        with distributed.together():
            hand_over(stage, name, start, Checkpoints("."))


def hand_over(stage: Stage, name: str, start: Handover | None, checkpoints: Checkpoints) -> str:
    """Fill a stage with what its `init_from` names. Return what was done, in words.

    Raises AgreedError if the earlier stage is not finished or lacks what is to be carried, or has it of another kind;
    OptionError for weights that cannot be read.
    """
    if start is None:
        return f"stage {name} starts from {getattr(stage.networks['network_g'], 'begins', 'fresh weights')}"
    try:
        if start.checkpoint is not None:
            return f"stage {name} starts from {start.checkpoint}: {take_files(stage, start, Path(start.checkpoint))}"
        take_stage(stage, start, checkpoints)
    except AgreedError as error:
        raise AgreedError(f"stages.{name}.init_from{error}") from error
    return f"stage {name} starts from the {start.weights} weights of stage {start.stage}"


def take_files(stage: Stage, start: Handover, path: Path) -> str:
    """Fill a stage's networks from weight files, ours or published. Return what fitted, and what starts anew."""
    network, file = stage.networks["network_g"], weight_files(path, start.weights)[0]
    report = load_weights(network, file, prefer=start.weights, strict=False)
    hint = "" if report.complete else advice(read_weights(file, start.weights))
    if len(report.missing) + len(report.mismatched) == len(network.state_dict()):
        raise AgreedError(f".checkpoint: nothing in {path} fits: {report}\n  {hint}")
    require_every_weight(report, start, f".checkpoint: {path}", hint)
    if start.network_d is None:
        others = [*(other for other in stage.networks if other != "network_g"), "optimizer"]
        return f"{report}; anew start: {', '.join(others)}"
    if "network_d" not in stage.networks:
        raise AgreedError(".network_d: this stage has no discriminator")
    report_d = load_weights(stage.networks["network_d"], start.network_d, prefer=start.weights, strict=False)
    require_every_weight(report_d, start, f".network_d: {start.network_d}", "give a file of this discriminator")
    return f"{report}; its discriminator from {start.network_d}: {report_d}"


def require_every_weight(report: LoadReport, start: Handover, where: str, hint: str) -> None:
    """Raise AgreedError for a file that leaves weights at their random start, unless that is wished for."""
    if (fresh := len(report.missing) + len(report.mismatched)) and not start.partial:
        raise AgreedError(
            f"{where} does not fill the network, {fresh} weights would start from random values: {report}\n"
            f"  {hint}, or let them start fresh: init_from: {{partial: true, ...}}"
        )


def take_stage(stage: Stage, start: Handover, checkpoints: Checkpoints) -> None:
    """Fill a stage with what it carries over from the end of an earlier one."""
    assert start.stage is not None
    if (folder := checkpoints.finished(start.stage)) is None:
        raise AgreedError(f": stage {start.stage} is not finished in {checkpoints.folder}")
    earlier = checkpoint.load(folder)
    for carried in start.carry:
        if carried == "optimizer":
            load_optimizers(stage, earlier.state["optimizers"], f".carry: the optimizer of stage {start.stage}")
            continue
        key = carried + "_ema" if carried == "network_g" and start.weights == "ema" else carried
        if key not in earlier.networks:
            raise AgreedError(f".carry: stage {start.stage} has no {carried}")
        load_network(stage.networks[carried], earlier.networks[key], f".carry: {carried} of stage {start.stage}")


def load_network(network: nn.Module, weights: Mapping[str, Tensor], whose: str) -> None:
    """Load the weights of a checkpoint. Raises AgreedError, which begins with `whose`, for those of another network."""
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        difference = shorten(str(error).splitlines()[1].strip(), 120, placeholder=" ...")
        raise AgreedError(f"{whose} has the weights of another network ({difference})") from error


def load_optimizers(stage: Stage, states: Mapping[str, Any], whose: str) -> None:
    """Restore optimizers by phase name. Rates, betas and decay stay those of the option file.

    Raises AgreedError, which begins with `whose`, for the state of another type of optimizer or of other parameters.
    """
    for phase in stage.phases():
        if phase.name not in states:
            continue
        groups, saved_groups = phase.optimizer.param_groups, states[phase.name]["param_groups"]
        if [_shape_of(group) for group in groups] != [_shape_of(group) for group in saved_groups]:
            raise AgreedError(f"{whose} is of another type, or of other parameters (phase {phase.name})")
        noted = ("params", *COUNTED)
        chosen = [{k: v for k, v in group.items() if k not in noted} for group in groups]
        merged = [{**old, **own} for old, own in zip(saved_groups, chosen, strict=True)]
        phase.optimizer.load_state_dict({**states[phase.name], "param_groups": merged})
        for parameter, state in phase.optimizer.state.items():
            for key, value in state.items():
                if value.shape == parameter.shape:  # in memory as the parameter is, which fused kernels ask for
                    state[key] = torch.empty_like(parameter).copy_(value)


def _shape_of(group: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Return how many parameters a group has, and which options it has that tell optimizers apart."""
    return len(group["params"]), [option for option in ("betas", "momentum", "alpha", "weight_sum") if option in group]


def distribute(network: nn.Module, processes: Processes, stage: Stage) -> nn.Module:
    """Return the network as its own phase calls it: through DDP where there are several processes, through DataParallel
    where one process was started by hand on a machine of several GPUs.

    Raises OptionError for a stage whose forward pass keeps state: DataParallel would lose it.
    """
    if not any(p.requires_grad for p in network.parameters()):
        return network
    if processes.world_size > 1:
        ids = [processes.device.index] if processes.device.type == "cuda" else None
        unused = stage.finds_unused or (isinstance(network, Network) and network.finds_unused)
        # PyTorch 2.14 has another name for it, and warns of the one that older versions know.
        known = inspect.signature(DistributedDataParallel).parameters
        buffers = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        options: Any = {buffers: False, "find_unused_parameters": unused}
        return DistributedDataParallel(network, device_ids=ids, **options)
    if len(processes.gpus) > 1:
        lost = None
        if stage.single_process_only:
            lost = f"{type(stage).__name__} keeps state in its forward pass"
        elif any(isinstance(module, GlobalBatchNorm2d) for module in network.modules()):
            lost = "`batch_norm: global` shares statistics between processes"
        elif network._compiled_call_impl is not None or any("forward" in vars(part) for part in network.modules()):
            lost = "`performance` compiles or recomputes parts of the network on one GPU"
        if lost is not None:
            raise OptionError(
                f"{lost}, which DataParallel over {len(processes.gpus)} GPUs would lose; start it with torchrun "
                f"--nproc-per-node {len(processes.gpus)}, or on one with --device cuda:0"
            )
        return nn.DataParallel(network, device_ids=list(processes.gpus))
    return network
