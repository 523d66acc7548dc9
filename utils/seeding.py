"""The two random streams of a run, as explicit generators. Nothing here or elsewhere touches a global generator."""

from __future__ import annotations

import zlib

import numpy as np
import torch


def generator(*key: int | str) -> np.random.Generator:
    """A NumPy generator that depends on the whole key, in order. Words count by their CRC-32."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else int(part) for part in key]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def sample_stream(seed: int, stage: str, number: int, attempt: int = 0) -> np.random.Generator:
    """Everything random about one training sample; `attempt` counts replacements of unreadable files."""
    return generator(1, seed, stage, number, attempt)


def step_stream(seed: int, stage: str, step: int) -> np.random.Generator:
    """What a system draws once per optimizer step: equal on all ranks and micro-batches."""
    return generator(2, seed, stage, step)


def validation_stream(seed: int, name: str, index: int) -> np.random.Generator:
    """The frozen degradation of one validation image."""
    return generator(3, seed, name, index)


def draw_seed(rng: np.random.Generator) -> int:
    """A seed for a noise field, kept in a plan."""
    return int(rng.integers(2**62))


def torch_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A PyTorch generator on a device, seeded."""
    return torch.Generator(device=device).manual_seed(seed)
