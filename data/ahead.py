"""Batches made ahead of the step that needs them: by the loader's workers, and by a thread on the device."""

import signal
import traceback
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from types import FrameType
from typing import Any, TypeVar

import cv2
import torch

from data.training import degrade
from degradations import Batch, Degradation
from utils.options.fields import OptionError

T = TypeVar("T")

GRACE = 25
"""Seconds for which workers outlive a SIGTERM, so that the main process can finish its step and save."""


# --- in workers ------------------------------------------------------------------------------------------------------


def loader_options(workers: int, device: torch.device) -> dict[str, Any]:
    """Return keyword arguments of a DataLoader whose data set collates for itself."""
    common = {"collate_fn": _as_is, "num_workers": workers, "pin_memory": device.type == "cuda"}
    return {**common, "worker_init_fn": _start_worker, "prefetch_factor": 4} if workers else common


def _as_is(value: Any) -> Any:  # noqa: ANN401
    return value


def _start_worker(worker: int) -> None:
    # Ctrl-C and the SIGTERM of a batch system go to every process; the main process decides when workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _end_later)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def _end_later(number: int, frame: FrameType | None) -> None:
    signal.alarm(GRACE)


def grouped(loader: Iterable[T], size: int) -> Generator[list[T]]:
    """Give what a loader gives in lists of `size`, the micro-batches of a step. Raises OptionError as workers do."""
    group: list[T] = []
    try:
        for item in loader:
            group.append(item)
            if len(group) == size:
                yield group
                group = []
    except Exception as error:
        traceback.clear_frames(error.__traceback__)  # they hold the loader, and so its workers
        if isinstance(error, OptionError):  # from a worker its text is a whole traceback
            raise OptionError(str(error).rpartition("OptionError: ")[2].strip()) from error
        raise


# --- on the device ---------------------------------------------------------------------------------------------------


def ahead(
    steps: Generator[list[Batch]], degradations: Sequence[Degradation], device: torch.device
) -> Generator[list[Batch]]:
    """Give the micro-batches of each step, degraded on the device while the step before is computed.

    They are launched from a thread of their own, since launching takes as long as computing, and on a stream of their
    own, since a GPU has room beside most of what a network does.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def degraded(micros: list[Batch]) -> tuple[list[Batch], torch.cuda.Event | None]:
        with nullcontext() if stream is None else torch.cuda.stream(stream):
            batches = [degrade(batch, degradations, device) for batch in micros]
        done = None if stream is None else torch.cuda.Event()
        if done is not None:
            done.record(stream)
        return batches, done

    def following() -> tuple[list[Batch], torch.cuda.Event | None] | None:
        micros = next(steps, None)
        return None if micros is None else degraded(micros)

    first = next(steps, None)  # here, so that workers are started by the main thread
    if first is None:
        return
    # A thread starts on the first GPU, whatever the main one chose, and would set up a context there.
    choose = None if stream is None else partial(torch.cuda.set_device, device)
    with ThreadPoolExecutor(1, thread_name_prefix="degrade", initializer=choose) as thread:
        future = thread.submit(degraded, first)
        try:
            while (made := future.result()) is not None:
                batches, done = made
                future = thread.submit(following)
                if done is not None:
                    _pass_to(torch.cuda.current_stream(device), done, batches)
                yield batches
        finally:
            future.cancel()
            thread.shutdown()
            steps.close()


def _pass_to(stream: torch.cuda.Stream, done: torch.cuda.Event, batches: Sequence[Batch]) -> None:
    """Let a stream wait for what another made, and keep the memory until this one has used it."""
    stream.wait_event(done)
    for batch in batches:
        for tensor in (batch.lq, *batch.targets.values(), batch.kernel, batch.sigma):
            if tensor is not None:
                tensor.record_stream(stream)
