"""How PyTorch's loader is set up here."""

from __future__ import annotations

import signal
import traceback
from collections.abc import Generator, Iterable
from types import FrameType
from typing import Any, TypeVar

import cv2
import torch

from utils.options.fields import OptionError

T = TypeVar("T")

GRACE = 25
"""Seconds for which workers outlive a SIGTERM, so that the main process can finish its step and save."""


def _end_later(number: int, frame: FrameType | None) -> None:
    signal.alarm(GRACE)


def _start_worker(worker: int) -> None:
    # Ctrl-C and the SIGTERM of a batch system go to every process; the main process decides when workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, _end_later)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def _as_is(value: Any) -> Any:  # noqa: ANN401
    return value


def loader_options(workers: int, device: torch.device) -> dict[str, Any]:
    """Keyword arguments of a DataLoader whose data set collates for itself."""
    common = {"collate_fn": _as_is, "num_workers": workers, "pin_memory": device.type == "cuda"}
    return {**common, "worker_init_fn": _start_worker, "prefetch_factor": 4} if workers else common


def grouped(loader: Iterable[T], size: int) -> Generator[list[T]]:
    """What a loader gives, in lists of `size`: the micro-batches of one step. Raises OptionError as its workers do."""
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
