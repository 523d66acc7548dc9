"""The order of samples: a pure function of the number, exact in every epoch and every block."""

import itertools
import json
import math
import pickle
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import pytest
from torch.utils.data import DataLoader, Dataset

from data.sampler import LookingAhead, PairPool, StepSampler, index_of, numbers_of_step
from tests.helpers import GOLDEN


def drawn(
    numbers: Sequence[int],
    counts: Sequence[int],
    weights: Sequence[float | None] | None = None,
    seed: int = 0,
    stage: str = "psnr",
) -> list[tuple[int, int]]:
    weights = [None] * len(counts) if weights is None else weights
    return [index_of(number, seed, stage, counts, weights) for number in numbers]


def all_images(counts: Sequence[int]) -> list[tuple[int, int]]:
    return [(source, index) for source, count in enumerate(counts) for index in range(count)]


# --- without weights -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [(1,), (2,), (1, 1), (7,), (64,), (65,), (5, 1, 17), (300, 33)])
def test_every_image_once_per_epoch(counts: tuple[int, ...]) -> None:
    total = sum(counts)
    for epoch in (0, 1, 2, 10**6):
        order = drawn(range(epoch * total, (epoch + 1) * total), counts)
        assert sorted(order) == all_images(counts)


def test_epochs_seeds_and_stages_have_their_own_order() -> None:
    orders = [
        drawn(range(100), [100]),
        drawn(range(100, 200), [100]),
        drawn(range(100), [100], seed=1),
        drawn(range(100), [100], stage="gan"),
    ]
    for one, other in itertools.combinations(orders, 2):
        same = sum(a == b for a, b in zip(one, other, strict=True))
        assert same < 10  # 1 expected


def test_a_number_means_the_same_whatever_was_asked_before() -> None:
    forward = drawn(range(500), [40, 23])
    backward = drawn(range(499, -1, -1), [40, 23])[::-1]
    assert forward == backward


def test_all_orders_of_a_few_images_are_equally_likely() -> None:
    length, epochs = 5, 12000
    seen = Counter(tuple(drawn(range(e * length, (e + 1) * length), [length])) for e in range(epochs))
    expected = epochs / math.factorial(length)
    chi2 = sum((seen[order] - expected) ** 2 / expected for order in itertools.permutations(all_images([length])))
    freedom = math.factorial(length) - 1
    assert chi2 < freedom + 5 * math.sqrt(2 * freedom)


def test_a_million_images_are_in_no_visible_order() -> None:
    indices = np.array([index for _, index in drawn(range(4000), [10**6])])
    assert len(set(indices.tolist())) == 4000
    assert abs(indices.mean() / 10**6 - 0.5) < 5 / math.sqrt(12 * 4000)
    assert abs(np.corrcoef(indices[:-1], indices[1:])[0, 1]) < 5 / math.sqrt(4000)


# --- with weights ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "weights", "quotas"),
    [
        ((10, 2000), (0.25, 0.75), (250, 750)),
        ((10, 2000), (1, 3), (250, 750)),
        ((10, 20, 30), (1, 1, 1), (334, 333, 333)),
        ((100, 300), (0.75, None), (500, 500)),  # None is its share of the images, 0.75 here
        ((5, 5, 5), (0.5, 0.2995, 0.2005), (500, 300, 200)),
    ],
)
def test_each_block_has_exact_shares(
    counts: tuple[int, ...], weights: tuple[float | None, ...], quotas: tuple[int, ...]
) -> None:
    for block in (0, 1, 77):
        order = drawn(range(block * 1000, (block + 1) * 1000), counts, weights)
        found = Counter(source for source, _ in order)
        assert sorted(found.values()) == sorted(quotas)
        assert all(abs(found[i] - quotas[i]) <= 1 for i in range(len(counts)))


def test_a_rare_source_comes_in_every_block() -> None:
    order = drawn(range(20000), [50, 50], [1.0, 1e-4])
    assert Counter(source for source, _ in order)[1] in (1, 2)


@pytest.mark.parametrize("counts", [(7, 40), (333, 1200), (1, 2)])
def test_weighted_sources_run_through_epochs_of_their_own(counts: tuple[int, int]) -> None:
    order = drawn(range(12000), counts, (0.3, 0.7))
    for source, count in enumerate(counts):
        seen = Counter(index for s, index in order if s == source)
        times = sum(seen.values()) / count
        # After whole blocks at most one epoch is under way.
        assert set(range(count)) == set(seen) and set(seen.values()) <= {math.floor(times), math.ceil(times)}


def test_sources_are_mixed_within_a_block() -> None:
    order = drawn(range(1000), [50, 50], [0.5, 0.5])
    assert 150 < sum(source for source, _ in order[:400]) < 250


def test_weighted_blocks_differ_by_seed() -> None:
    one, other = (drawn(range(1000), [50, 50], [0.5, 0.5], seed=s) for s in (0, 1))
    assert 0 < sum(a == b for a, b in zip(one, other, strict=True)) < 50


@pytest.mark.parametrize(
    ("counts", "weights", "message"),
    [
        ((), (), "at least one"),
        ((3,), (None, None), "1 sources and 2 weights"),
        ((3, 0), (None, None), "source 1 has no images"),
        ((3, 4), (0.0, 1.0), "above 0"),
        ((3, 4), (float("nan"), 1.0), "above 0"),
    ],
)
def test_what_is_refused(counts: tuple[int, ...], weights: tuple[float | None, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        index_of(0, 0, "psnr", counts, weights)
    with pytest.raises(ValueError, match="-1"):
        index_of(-1, 0, "psnr", (3,), (None,))


# --- steps and ranks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("world_size", "accumulate"), [(1, 1), (2, 1), (1, 3), (2, 3), (4, 3)])
def test_ranks_and_micro_batches_partition_each_step(world_size: int, accumulate: int) -> None:
    for step in (1, 2, 1000):
        parts = [
            numbers_of_step(step, 24, rank, world_size, micro, accumulate)
            for rank in range(world_size)
            for micro in range(accumulate)
        ]
        assert [number for part in parts for number in part] == list(range((step - 1) * 24, step * 24))
        assert len({len(part) for part in parts}) == 1


def test_an_odd_batch_is_refused_with_the_multiple_to_choose() -> None:
    with pytest.raises(ValueError, match="multiple of 6"):
        numbers_of_step(1, 16, 0, 2, 0, 3)
    with pytest.raises(ValueError, match="multiple of 6"):
        StepSampler(16, 1, 10, world_size=2, accumulate=3)


@pytest.mark.parametrize("wrong", [{"step": 0}, {"rank": 2}, {"rank": -1}, {"micro": 1}])
def test_arguments_out_of_range(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="steps count from 1"):
        numbers_of_step(**{"step": 1, "batch_size": 4, "rank": 0, "world_size": 2, **wrong})


@pytest.mark.parametrize("resumed", range(1, 9))
def test_a_resumed_sampler_goes_on_where_the_other_stopped(resumed: int) -> None:
    whole = list(StepSampler(12, 1, 8, rank=1, world_size=2, accumulate=3))
    assert len(whole) == len(StepSampler(12, 1, 8, rank=1, world_size=2, accumulate=3)) == 24
    before = list(StepSampler(12, 1, resumed - 1, rank=1, world_size=2, accumulate=3))
    after = list(StepSampler(12, resumed, 8, rank=1, world_size=2, accumulate=3))
    assert before + after == whole


class Numbers(Dataset[int]):
    """Gives back the number it is asked for."""

    def __getitem__(self, number: int) -> int:
        return number


def test_a_loader_takes_it_as_batch_sampler() -> None:
    loader = DataLoader(Numbers(), batch_sampler=StepSampler(4, 3, 4, rank=1, world_size=2), collate_fn=list)
    assert list(loader) == [[10, 11], [14, 15]]


def test_pair_pool_equals_the_released_one() -> None:
    """Recorded permutations and ids; the ids of a batch stand for its sample numbers."""
    recorded = json.loads((GOLDEN / "realesrgan" / "pool.json").read_text())
    pool, batch, orders = PairPool(recorded["queue_size"]), recorded["batch"], iter(recorded["perms"])
    for k, returned in enumerate(recorded["returned"]):
        full = len(pool.numbers) == pool.size
        found = pool.exchange([batch * k + 1, batch * k + 2], next(orders) if full else [])
        assert found == returned[:batch]


def test_pooled_steps_are_the_same_after_a_resume_and_on_two_ranks() -> None:
    whole = list(StepSampler(4, 1, 12, pool=8, seed=3, stage="gan"))
    assert whole[:2] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert sorted(number for batch in whole for number in batch) != list(range(48))
    assert list(StepSampler(4, 6, 12, pool=8, seed=3, stage="gan")) == whole[5:]
    halves = [list(StepSampler(4, 6, 12, rank, 2, pool=8, seed=3, stage="gan")) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves, strict=True)] == whole[5:]
    with pytest.raises(ValueError, match="no multiple"):
        StepSampler(4, 1, 2, pool=6)


# --- runs of neighbours ------------------------------------------------------------------------------------------


def images(numbers: Iterable[int], count: int, locality: int) -> list[int]:
    return [index_of(number, 3, "psnr", [count], [None], [locality])[1] for number in numbers]


@pytest.mark.parametrize(("count", "locality"), [(5000, 16), (5003, 16), (40, 64), (64, 64)])
def test_with_locality_each_image_comes_once_an_epoch(count: int, locality: int) -> None:
    """Epochs overlap by a block at most, in which all is mixed."""
    block = max(1000, 32 * locality)
    times = Counter(images(range(-(-3 * count // block) * block), count, locality))
    assert len(times) == count and max(times.values()) - min(times.values()) <= 1


def test_neighbours_come_soon_after_one_another_and_many_runs_are_mixed() -> None:
    count, locality = 64_000, 64
    order = images(range(2048 * 4), count, locality)
    for start in range(0, len(order), 2048):
        runs = Counter(i // locality for i in order[start : start + 2048])
        assert len(runs) == 32 and set(runs.values()) == {64}
        batches = [order[b : b + 16] for b in range(start, start + 2048, 16)]
        distinct = sum(len({i // locality for i in batch}) for batch in batches) / len(batches)
        assert distinct == pytest.approx(32 * (1 - (31 / 32) ** 16), rel=0.03)  # as drawn from all of the 32
    assert order != images(range(2048 * 4, 2048 * 8), count, locality)


def test_only_the_source_with_locality_comes_in_runs() -> None:
    found = [index_of(n, 3, "", [50_000, 50_000], [None, None], [1, 50]) for n in range(1600)]
    first, second = ([i for source, i in found if source == of] for of in (0, 1))
    assert len(first) == len(second) == 800
    assert len({i // 50 for i in first}) > 500 and len({i // 50 for i in second}) == 16


def test_looking_ahead_gives_each_worker_its_next_batch() -> None:
    found = list(LookingAhead(StepSampler(4, 1, 5), 2))
    assert found == list(StepSampler(4, 1, 5))
    assert [numbers.upcoming for numbers in found] == [*found[2:], (), ()]
    assert pickle.loads(pickle.dumps(found[0])).upcoming == found[2]
