"""The two random streams of a run, as explicit generators. Nothing here or elsewhere touches a global generator."""

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def generator(*key: int | str) -> np.random.Generator:
    """Return a NumPy generator that depends on the whole key, in order. Words count by their CRC-32."""
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else int(part) for part in key]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def sample_stream(seed: int, stage: str, number: int, attempt: int = 0) -> np.random.Generator:
    """Return the stream of one training sample's randomness; `attempt` counts replacements of unreadable files."""
    return generator(1, seed, stage, number, attempt)


def step_stream(seed: int, stage: str, step: int) -> np.random.Generator:
    """Return the stream of what a system draws once per optimizer step, equal on all ranks and micro-batches."""
    return generator(2, seed, stage, step)


def validation_stream(seed: int, name: str, index: int) -> np.random.Generator:
    """Return the stream of one validation image's degradation, which is so frozen."""
    return generator(3, seed, name, index)


def draw_seed(rng: np.random.Generator) -> int:
    """Return a seed for a noise field, kept in a plan."""
    return int(rng.integers(2**62))


def torch_generator(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a PyTorch generator on a device, seeded."""
    return torch.Generator(device=device).manual_seed(seed)


def random_words(seed: int, count: int) -> np.ndarray:
    """Return random words of 32 bits (count,), or one more for an odd count: uint32, from a generator of their own."""
    return np.random.SFC64(seed).random_raw((count + 1) // 2).view(np.uint32)


def random_bits(seeds: Tensor, shape: Sequence[int]) -> Tensor:
    """Draw 64 random bits, as int64 (B, *shape), at each place of a grid of 2^20 in each but the first axis.

    A function of seed and place alone, whatever the shape and the other seeds: no state, and one expression for a whole
    batch. SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) with seeds (B,) as states and places as counts.
    """
    place = torch.ones((), dtype=torch.int64, device=seeds.device)
    for length in shape:
        place = place[..., None] * 2**20 + torch.arange(length, device=seeds.device)
    z = place * _GOLDEN + seeds.view(-1, *[1] * len(shape))
    z.bitwise_xor_((z >> 30).bitwise_and_(2**34 - 1)).mul_(_MIX_1)  # the mask makes it a shift without sign
    z.bitwise_xor_((z >> 27).bitwise_and_(2**37 - 1)).mul_(_MIX_2)
    return z.bitwise_xor_((z >> 31).bitwise_and_(2**33 - 1))


# SplitMix64's 0x9e3779b97f4a7c15, 0xbf58476d1ce4e5b9 and 0x94d049bb133111eb as signed numbers.
_GOLDEN, _MIX_1, _MIX_2 = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
