"""Which image a sample number stands for, and which numbers a rank takes in a step. Pure functions, no state.

Samples are numbered from 0 without end. Number -> image depends on (seed, stage, number) alone, so workers, ranks,
accumulation and resume change nothing. It is computed, not looked up: a keyed permutation of any length takes no
memory and a few microseconds.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate as running_sum

from torch.utils.data import Sampler

from utils.seeding import generator

_ROUNDS = 8
_BLOCK = 1000  # samples in which weighted sources have their exact share
_RUNS_MIXED = 32  # at least so many runs of neighbours are mixed with one another
_MIXED = 0  # stream of the order over all sources; source i has the stream i + 1


def index_of(
    number: int,
    seed: int,
    stage: str,
    counts: Sequence[int],
    weights: Sequence[float | None],
    localities: Sequence[int] = (),
) -> tuple[int, int]:
    """Return the image of a sample.

    Without weights every image comes once per epoch, in a new order each time. With weights, each block of (at
    least) 1000 samples has every source's exact share, and each source runs through its own epochs from block to
    block.

    Args:
        number: sample number, from 0.
        seed, stage: key of the order.
        counts: images of each source, all at least 1.
        weights: of each source, relative to one another. None is its share of the images; all None is no weighting.
        localities: of each source; left out, all 1.

    Returns:
        (source, index within it).

    Raises:
        ValueError: a source is empty, a weight is not positive, or the lengths differ.
    """
    if number < 0:
        raise ValueError(f"found sample number {number}, expected 0 or more")
    quotas = _quotas(tuple(counts), tuple(weights), max(localities, default=1))
    ends = _ends(quotas)
    block, position = divmod(number, ends[-1])
    drawn = _permuted(position, ends[-1], _keys(seed, stage, _MIXED, block))
    source = bisect_right(ends, drawn)
    offset = drawn - (ends[source] - quotas[source])
    if quotas == tuple(counts):  # the block is an epoch
        return source, offset
    epoch, within = divmod(block * quotas[source] + offset, counts[source])
    run = localities[source] if localities else 1
    which, place = divmod(within, run)
    if which == counts[source] // run:  # a shorter run is the last of its epoch
        return source, within
    return source, _permuted(which, counts[source] // run, _keys(seed, stage, source + 1, epoch)) * run + place


@lru_cache(maxsize=64)
def _quotas(counts: tuple[int, ...], weights: tuple[float | None, ...], locality: int = 1) -> tuple[int, ...]:
    """Return how many samples of a block each source gives. Without weights and locality the block is one epoch of
    everything."""
    if len(counts) != len(weights) or not counts:
        raise ValueError(f"found {len(counts)} sources and {len(weights)} weights, expected equally many, at least one")
    if min(counts) < 1:
        raise ValueError(f"source {counts.index(min(counts))} has no images (images per source: {list(counts)})")
    if any(weight is not None and not weight > 0 for weight in weights):
        raise ValueError(f"found the weights {list(weights)}, expected numbers above 0")
    if locality == 1 and all(weight is None for weight in weights):
        return counts
    given = [count / sum(counts) if weight is None else weight for count, weight in zip(counts, weights, strict=True)]
    shares = [weight / sum(given) for weight in given]
    # Long enough that the rarest source comes at least once.
    return _apportioned(shares, max(_BLOCK, _RUNS_MIXED * locality, int(1 / min(shares)) + 1))


def _apportioned(shares: Sequence[float], block: int) -> tuple[int, ...]:
    """Return whole numbers that sum to `block`, by largest remainder."""
    exact = [share * block for share in shares]
    quotas = [int(value) for value in exact]
    order = sorted(range(len(shares)), key=lambda i: quotas[i] - exact[i])
    for i in order[: block - sum(quotas)]:
        quotas[i] += 1
    return tuple(quotas)


@lru_cache(maxsize=64)
def _ends(quotas: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(running_sum(quotas))


@lru_cache(maxsize=1024)
def _keys(seed: int, stage: str, stream: int, epoch: int) -> tuple[int, ...]:
    """Return the round keys of one permutation."""
    return tuple(int(key) for key in generator(4, seed, stage, stream, epoch).integers(2**63, size=_ROUNDS))


def _permuted(position: int, length: int, keys: tuple[int, ...]) -> int:
    """Return where `position` goes in a pseudo-random permutation of 0 … length - 1.

    A Feistel network permutes the next power of 4; a value outside the range is sent through again until it falls
    inside (cycle walking, Black and Rogaway 2002), which keeps it a permutation and takes under 4 passes on average.
    """
    if length == 1:
        return 0
    # With halves of 1 or 2 bits some orders come up 1.1 times as often as others; from 3 bits on they are even.
    half = max(3, ((length - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    value = position
    while True:
        left, right = value >> half, value & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        value = left << half | right
        if value < length:
            return value


def _mixed(value: int) -> int:
    """Return a 64-bit hash in which every input bit moves every output bit (the finaliser of splitmix64)."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    value = (value ^ value >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return value ^ value >> 31


def numbers_of_step(
    step: int,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    micro: int = 0,
    accumulate: int = 1,
) -> range:
    """Return the sample numbers of one micro-batch of one rank.

    Step t (from 1) takes the numbers (t - 1)·B … t·B - 1 for the global batch size B. Each rank has a contiguous
    share of them, and each of its `accumulate` micro-batches a contiguous share of that.

    Raises ValueError if the batch does not divide evenly, or an argument is out of range.
    """
    parts = world_size * accumulate
    if parts < 1 or batch_size < 1 or batch_size % parts:
        raise ValueError(
            f"a batch of {batch_size} does not divide among {world_size} processes with {accumulate} micro-batches "
            f"each; choose a batch size that is a multiple of {parts}"
        )
    if step < 1 or not 0 <= rank < world_size or not 0 <= micro < accumulate:
        raise ValueError(
            f"found step {step}, rank {rank} of {world_size}, micro-batch {micro} of {accumulate}; "
            "steps count from 1, ranks and micro-batches from 0"
        )
    share = batch_size // parts
    first = (step - 1) * batch_size + (rank * accumulate + micro) * share
    return range(first, first + share)


class Numbers(list[int]):
    """The sample numbers of a micro-batch, and those that the same worker will be asked for next."""

    upcoming: Sequence[int] = ()


class LookingAhead(Sampler[list[int]]):
    """The batches of another sampler, each with what follows it `distance` batches later: a loader hands its batches to
    its workers in turn, so with as many workers the same one gets that."""

    def __init__(self, batches: Sampler[list[int]], distance: int) -> None:
        self.batches, self.distance = batches, distance

    def __iter__(self) -> Iterator[Numbers]:
        waiting = deque[Numbers]()
        for batch in self.batches:
            waiting.append(Numbers(batch))
            if len(waiting) > self.distance:
                waiting[0].upcoming = batch
                yield waiting.popleft()
        yield from waiting

    def __len__(self) -> int:
        return len(self.batches)  # type: ignore[arg-type]


class PairPool:
    """Real-ESRGAN's pool of training pairs, in which batches mix whose degradation was drawn together.

    It holds sample numbers, not images, since a pair follows from its number; so it costs nothing and need not be
    saved. Until it is full a batch is kept and used as well; then a random part of the pool leaves for each batch that
    takes its places.
    """

    def __init__(self, size: int) -> None:
        self.size, self.numbers = size, list[int]()

    def exchange(self, batch: Sequence[int], order: Sequence[int]) -> list[int]:
        """Put a batch in and give the one to use; `order` is a permutation of the full pool's places."""
        if len(self.numbers) < self.size:
            self.numbers += batch
            return list(batch)
        mixed = [self.numbers[place] for place in order]
        self.numbers = [*batch, *mixed[len(batch) :]]
        return mixed[: len(batch)]


class StepSampler(Sampler[list[int]]):
    """Batches of sample numbers for one rank, `accumulate` lists for each step, for a DataLoader's `batch_sampler`.

    Args:
        batch_size: of the whole step, over all ranks and micro-batches.
        first_step: from 1; after a resume, the step after the last one done.
        last_step: inclusive.
        pool: pairs in a `PairPool` (a multiple of the batch size), or 0 for none.
        seed, stage: key of the pool's order.
    """

    def __init__(
        self,
        batch_size: int,
        first_step: int,
        last_step: int,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        pool: int = 0,
        seed: int = 0,
        stage: str = "",
    ) -> None:
        numbers_of_step(first_step, batch_size, rank, world_size, 0, accumulate)  # refuses what does not divide
        if pool % batch_size:
            raise ValueError(f"a pool of {pool} pairs is no multiple of the batch size {batch_size}")
        self.pool, self.key = pool, (seed, stage)
        self.batch_size, self.accumulate = batch_size, accumulate
        self.rank, self.world_size = rank, world_size
        self.steps = range(first_step, last_step + 1)

    def __iter__(self) -> Iterator[list[int]]:
        for step, whole in self._global_batches():
            for micro in range(self.accumulate):
                numbers = numbers_of_step(step, self.batch_size, self.rank, self.world_size, micro, self.accumulate)
                yield [whole[number - (step - 1) * self.batch_size] for number in numbers]

    def _global_batches(self) -> Iterator[tuple[int, Sequence[int]]]:
        pool = PairPool(self.pool)
        for step in range(1 if self.pool else self.steps.start, self.steps.stop):  # a pool depends on all that came
            batch: Sequence[int] = numbers_of_step(step, self.batch_size)
            if self.pool:
                batch = pool.exchange(batch, generator(5, *self.key, step).permutation(self.pool).tolist())
            if step in self.steps:
                yield step, batch

    def __len__(self) -> int:
        return len(self.steps) * self.accumulate
