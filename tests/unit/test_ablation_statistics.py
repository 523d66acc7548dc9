"""A difference is called one only when it is more than chance.

`ablation_scores.npz` holds recorded scores: PSNR of 40 images on two sets by one small network (srvgg, 16 features,
400 iterations of BSRGAN's degradation) trained with 16 seeds, (16, 40) each.
"""

from pathlib import Path

import numpy as np
import pytest

from models.ablating.statistics import Difference, compare, holm, in_words, seeds_needed
from utils.seeding import generator

RECORDED = np.load(Path(__file__).with_name("ablation_scores.npz"))


def experiments(count: int, seeds: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The same variant under two names and other seeds, on images drawn anew."""
    rng, found = generator("simulated experiments"), []
    for number in range(count):
        scores = RECORDED[("jpeg", "no_jpeg")[number % 2]].astype(np.float64)
        chosen, images = rng.permutation(16)[: 2 * seeds], rng.integers(40, size=40)
        found.append((scores[chosen[:seeds]][:, images], scores[chosen[seeds:]][:, images]))
    return found


def called_different(pairs: list[tuple[np.ndarray, np.ndarray]], planted: float = 0.0) -> float:
    seen = [compare(a + planted, b, generator(i), draws=1000).p < 0.05 for i, (a, b) in enumerate(pairs)]
    return sum(seen) / len(seen)


def test_of_200_experiments_without_a_difference_few_are_called_different() -> None:
    assert called_different(experiments(200, seeds=3)) <= 0.07


def test_a_plain_bootstrap_would_not_do() -> None:
    """Why seeds are not drawn with replacement: three of them tell too little of how far they scatter."""
    false, rng = 0, generator("plain")
    for a, b in experiments(200, seeds=3):
        d = (a - b).mean(axis=1)
        low, high = np.quantile(rng.choice(d, size=(1000, 3)).mean(axis=1), [0.025, 0.975])
        false += low > 0 or high < 0
    assert false / 200 > 0.15


def test_a_planted_tenth_of_a_decibel_is_found_with_as_many_seeds_as_were_advised() -> None:
    """These runs are short, so their seeds lie 0.06 dB apart: three seldom show 0.1 dB, and say how many would."""
    three, eight = experiments(60, seeds=3), experiments(60, seeds=8)
    advised = np.median(
        [seeds_needed(compare(a, b, generator(i), draws=1000), 0.1) or 99 for i, (a, b) in enumerate(three)]
    )
    assert 4 <= advised <= 10
    assert called_different(eight, planted=0.1) >= 0.7
    assert called_different(three, planted=0.3) >= 0.8


def test_an_effect_on_every_image_is_seen_and_its_interval_holds_it() -> None:
    rng = generator("clear")
    base = rng.normal(25, 2, (1, 50)) + rng.normal(0, 0.02, (3, 1)) + rng.normal(0, 0.02, (3, 50))
    d = compare(base + 0.2 + rng.normal(0, 0.02, (3, 50)), base, generator(0))
    assert d.low < 0.2 < d.high and d.p < 0.01 and d.improved == 50


def test_with_equal_seeds_the_interval_is_that_of_the_images() -> None:
    d = generator("images").normal(0.1, 0.3, (1, 60)).repeat(3, axis=0)
    found = compare(d, np.zeros_like(d), generator(0))
    half = 2.0 * d[0].std(ddof=1) / np.sqrt(60)
    assert found.high - found.mean == pytest.approx(half, rel=0.1)


def test_with_one_image_the_interval_is_students() -> None:
    d = np.array([[0.1], [0.2], [0.3]])
    found = compare(d, np.zeros_like(d), generator(0))
    assert found.high - found.mean == pytest.approx(4.303 * 0.1 / np.sqrt(3), rel=0.1)


def test_ten_degradations_of_one_photograph_are_one_witness() -> None:
    d = generator("repeats").normal(0.1, 0.3, (3, 6))
    once = compare(d, np.zeros_like(d), generator(0))
    many, of = d.repeat(10, axis=1), [i for i in range(6) for _ in range(10)]
    assert compare(many, 0 * many, generator(0), of).high == pytest.approx(once.high)
    believed = compare(many, 0 * many, generator(0))
    assert believed.high - believed.low < 0.8 * (once.high - once.low)


def test_holms_correction_is_that_of_the_textbook() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def difference(**changes: float) -> Difference:
    known = {"mean": 0.02, "low": -0.1, "high": 0.14, "p": 0.5, "improved": 20, "images": 32, "seeds": 3}
    known["photographs"] = 32
    return Difference(**{**known, "seed_deviation": 0.05, "image_deviation": 0.1, **changes})  # type: ignore[arg-type]


def test_words_say_what_is_known_and_what_would_help() -> None:
    assert (
        in_words(difference(), 0.1, "PSNR RGB")
        == "no difference can be seen; about 3 more seeds would show one of 0.1 dB"
    )
    assert in_words(difference(seed_deviation=0.01), 0.1, "PSNR RGB").endswith(
        "and one of 0.1 dB would most likely have been seen"
    )
    assert "test on more" in in_words(difference(image_deviation=2.0), 0.1, "PSNR RGB")
    assert in_words(difference(seeds=1), 0.1, "PSNR RGB").startswith("one seed tells nothing")
    seen = difference(mean=-0.2, low=-0.3, high=-0.1, p=0.001, p_holm=0.004, improved=4)
    assert in_words(seen, 0.1, "PSNR RGB") == "worse by 0.20 dB (95 % interval -0.30 to -0.10), on 28 of 32 images"
    assert in_words(seen, 0.1, "LPIPS RGB", higher_is_better=False).startswith("better by 0.2000 (95")
    alone = difference(p=0.03, p_holm=0.2)
    assert "after correction for the number of variants" in in_words(alone, 0.1, "PSNR RGB")
