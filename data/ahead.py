"""Degrading ahead of the training step."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

import torch

from data.training import Samples, degrade
from degradations import Degradation, Degraded


def ahead(
    steps: Generator[list[Samples]], degradations: Sequence[Degradation], device: torch.device
) -> Generator[list[Samples]]:
    """The micro-batches of each step, degraded on the device while the step before is computed.

    They are launched from a thread of their own, since launching takes as long as computing, and on a stream of their
    own, since a GPU has room beside most of what a network does.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def degraded(micros: list[Samples]) -> tuple[list[Samples], torch.cuda.Event | None]:
        with nullcontext() if stream is None else torch.cuda.stream(stream):
            for samples in micros:
                batch = degrade(samples, degradations, device)
                samples.degraded = Degraded(batch.lq, batch.targets, batch.kernel, batch.sigma)
        done = None if stream is None else torch.cuda.Event()
        if done is not None:
            done.record(stream)
        return micros, done

    def following() -> tuple[list[Samples], torch.cuda.Event | None] | None:
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
            while (found := future.result()) is not None:
                micros, done = found
                future = thread.submit(following)
                if done is not None:
                    hand_over_to(torch.cuda.current_stream(device), done, micros)
                yield micros
        finally:
            future.cancel()
            thread.shutdown()
            steps.close()


def hand_over_to(stream: torch.cuda.Stream, done: torch.cuda.Event, micros: Sequence[Samples]) -> None:
    """Lets a stream wait for what another made, and keeps the memory until this one has used it."""
    stream.wait_event(done)
    for samples in micros:
        made = samples.degraded
        assert made is not None
        for tensor in (made.lq, *made.targets.values(), made.kernel, made.sigma):
            if tensor is not None:
                tensor.record_stream(stream)
