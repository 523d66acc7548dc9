"""The processes of a run, as torchrun starts them. With one process every function here does nothing."""

import os
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from utils.options.fields import OptionError

T = TypeVar("T")


class AgreedError(OptionError):
    """An error raised on every rank alike, so that none waits for another; the main one says it."""


# Long enough for the slowest thing that one rank does while others wait. A rank that dies does not cost it:
# torchrun then ends the others.
_TIMEOUT = timedelta(minutes=30)


@dataclass(frozen=True)
class Processes:
    """This process among those of the run. Rank 0 is the main one: it prints, saves and logs.

    `gpus` are those that a run of one process, not started by torchrun, spreads its batches over; mostly one or none.
    """

    rank: int
    world_size: int
    local_rank: int
    device: torch.device
    gpus: tuple[int, ...] = ()

    @property
    def is_main(self) -> bool:
        """Return whether this process prints, saves and logs."""
        return self.rank == 0


def start(device: str = "auto") -> Processes:
    """Join the processes of this run: one, or as many as torchrun started (NCCL on CUDA, gloo on the CPU).

    Args:
        device: `auto` (CUDA where there is one), `cpu`, `cuda`, or `cuda:N` in a run of one process.

    Raises OptionError if the device does not exist or torchrun's environment is incomplete.
    """
    rank, world_size, local_rank = _environment()
    chosen = _device(device, local_rank, world_size)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if world_size > 1:
        store, *_ = next(dist.rendezvous("env://", timeout=_TIMEOUT))
        dist.init_process_group(
            "nccl" if chosen.type == "cuda" else "gloo",
            store=dist.PrefixStore(_name_of_start(store, rank, world_size), store),
            rank=rank,
            world_size=world_size,
            timeout=_TIMEOUT,
            device_id=chosen if chosen.type == "cuda" else None,
        )
    gpus: tuple[int, ...] = ()
    if chosen.type == "cuda":
        alone = "LOCAL_RANK" not in os.environ and device in ("auto", "cuda")
        gpus = tuple(range(torch.cuda.device_count())) if alone else (chosen.index,)
    return Processes(rank, world_size, local_rank, chosen, gpus)


# The three messages by which the ranks of a start agree on its name, in torchrun's store.
_ASKS = "asks/{rank}"  # every other rank: a word that nobody used before
_ANSWER = "answers/{word}"  # the main one, to whatever asks it finds: the name of this start
_UNDERSTOOD = "understood/{name}/{rank}"  # every other rank, so that the main one need not answer any more


def _name_of_start(store: dist.Store, rank: int, world_size: int) -> str:
    """Return a name that the processes of this start share, and none before them.

    torchrun keeps one store over its restarts, where the addresses of processes that are gone would be met, and their
    asks are. The number of restarts does not tell starts apart, for each machine counts its own.
    """
    word = uuid.uuid4().hex
    return _answer_all(store, word, set(range(1, world_size))) if rank == 0 else _ask(store, word, rank)


def _ask(store: dist.Store, word: str, rank: int) -> str:
    store.set(_ASKS.format(rank=rank), word)
    name = store.get(_ANSWER.format(word=word)).decode()
    store.set(_UNDERSTOOD.format(name=name, rank=rank), "yes")
    return name


def _answer_all(store: dist.Store, name: str, missing: set[int]) -> str:
    end = time.monotonic() + _TIMEOUT.total_seconds()
    while missing:
        if time.monotonic() > end:
            raise OptionError(f"ranks {sorted(missing)} did not come within {_TIMEOUT}")
        for rank in missing:
            if store.check([_ASKS.format(rank=rank)]):  # perhaps of an earlier start, whom the answer does not hurt
                store.set(_ANSWER.format(word=store.get(_ASKS.format(rank=rank)).decode()), name)
        missing = {rank for rank in missing if not store.check([_UNDERSTOOD.format(name=name, rank=rank)])}
        time.sleep(0.01)
    return name


def _environment() -> tuple[int, int, int]:
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return 0, 1, 0
    names = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in names if name not in os.environ]:
        raise OptionError(f"WORLD_SIZE is {world_size}, but {', '.join(missing)} is not set; start with torchrun")
    return int(os.environ["RANK"]), world_size, int(os.environ["LOCAL_RANK"])


def _device(name: str, local_rank: int, world_size: int) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise OptionError(f"device: found {name!r}, expected auto, cpu, cuda or cuda:N")
    if device.type == "cpu":
        return torch.device("cpu")
    if device.index is not None and world_size > 1:
        raise OptionError(f"device: found {name!r} in a run of {world_size} processes, expected cuda (one GPU each)")
    index = local_rank if device.index is None else device.index
    if index >= (count := torch.cuda.device_count()):
        shown = f"{count}, counted from 0" if count else "none; --device cpu does without"
        raise OptionError(f"device: GPU {index} is asked for, but of GPUs this machine shows {shown}")
    return torch.device("cuda", index)


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return the number of this process."""
    return dist.get_rank() if dist.is_initialized() else 0


class _AllMean(torch.autograd.Function):
    """Mean over ranks. Of the sum of all ranks' losses, whose gradients DDP then averages, its derivative is itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total / dist.get_world_size()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ANN401
        return _AllMean.apply(gradients[0])  # type: ignore[return-value]


def all_mean(x: Tensor) -> Tensor:
    """Return the mean of a float tensor over all ranks, differentiable (twice too); every rank must call it."""
    return x if world_size() == 1 else _AllMean.apply(x)  # type: ignore[return-value]


class Agreement:
    """The largest value of each integer flag over all ranks, so that all decide alike; one collective.

    On a GPU nobody waits for it before `read`; `flags` is for what decides on the device itself.
    """

    def __init__(self, flags: Tensor) -> None:
        if world_size() > 1:
            flags = flags.to(_collective_device(), copy=True)
            dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        self.flags = flags
        self._host = flags.to("cpu", non_blocking=True)
        self._arrived = torch.cuda.current_stream(flags.device).record_event() if flags.is_cuda else None

    def read(self) -> list[int]:
        """Return the flags, once they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return [int(value) for value in self._host.tolist()]


def agree(flags: Tensor) -> list[int]:
    """Return the largest value of each integer flag over all ranks, at once."""
    return Agreement(flags).read()


def gather_objects(value: T) -> list[T]:
    """Return every rank's value, in rank order, on all ranks."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def all_gather(x: Tensor) -> Tensor:
    """Return every rank's tensor, in rank order along the first axis, on all ranks, as a constant of equal shapes."""
    if world_size() == 1:
        return x
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.detach().contiguous())
    return torch.cat(parts)


def all_gather_differentiable(x: Tensor) -> Tensor:
    """Do as `all_gather`, and let gradients of all ranks' losses flow back to the rank that the values came from."""
    if world_size() == 1:
        return x
    places = x.new_zeros(world_size(), *x.shape)
    places[rank()] = x
    return (all_mean(places) * world_size()).flatten(0, 1)


def broadcast_buffers(module: torch.nn.Module) -> None:
    """Give every rank the main process's buffers."""
    if world_size() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def broadcast_string(text: str) -> str:
    """Return the main process's text, on all ranks."""
    if world_size() == 1:
        return text
    texts = [text]
    dist.broadcast_object_list(texts, src=0)
    return texts[0]


def barrier() -> None:
    """Wait until every rank is here."""
    agree(torch.zeros(1, dtype=torch.int32))


@contextmanager
def together() -> Iterator[None]:
    """Let a block fail on all ranks or on none. Every rank must come here; the block may not call the others.

    Raises AgreedError on all ranks where one met an OptionError or OSError. In a run of one process, that error itself.
    """
    failure: Exception | None = None
    try:
        yield
    except (OptionError, OSError) as error:
        if world_size() == 1:
            raise
        failure = error
    reasons = gather_objects("" if failure is None else str(failure) or type(failure).__name__)
    for rank, reason in enumerate(reasons):
        if reason:
            raise AgreedError(reason if rank == 0 else f"on rank {rank}: {reason}") from failure


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Give all ranks one folder, which is removed when all have left it.

    Ranks on several machines get it where they were started, which is what they all see; /tmp is each machine's own.
    """
    is_main = not dist.is_initialized() or dist.get_rank() == 0
    one_machine = os.environ.get("LOCAL_WORLD_SIZE", "1") == os.environ.get("WORLD_SIZE", "1")
    place = None if one_machine else Path.cwd()
    with tempfile.TemporaryDirectory(dir=place) if is_main else nullcontext("") as own:
        yield Path(broadcast_string(own))
        barrier()


def _collective_device() -> torch.device:
    cuda = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
