"""The thresholds of a cascade: targets are met as often as stated, whatever the scores are worth."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spark_helium.gpu_executor.cascade import Achieved, Label, Thresholds, achieved, binomial_tail, learn

unit = st.floats(0, 1)
labels_lists = st.lists(st.builds(Label, unit, st.booleans()), max_size=300)
targets = st.floats(0.5, 0.99)


def drawn(seed: int, rows: int, sharpness: float, share: float = 0.5) -> list[Label]:
    """Rows whose score is their probability to be true: calibrated. Sharp ones lie near 0 and 1."""
    rng = random.Random(seed)
    scores = [rng.betavariate(sharpness * share, sharpness * (1 - share)) for _ in range(rows)]
    return [Label(score, rng.random() < score) for score in scores]


@pytest.mark.parametrize(("sharpness", "share"), [(0.05, 0.5), (0.3, 0.5), (2.0, 0.5), (0.1, 0.3)])
def test_targets_are_met_in_the_stated_share_of_samples(sharpness: float, share: float) -> None:
    seeds = 200
    population = drawn(12345, 20_000, sharpness, share)
    met = 0
    for seed in range(seeds):
        sample = random.Random(seed).choices(population, k=400)
        result = achieved(population, learn(sample, 0.9, 0.9, confidence=0.9))
        met += result.precision >= 0.9 and result.recall >= 0.9
    assert met >= 0.9 * seeds


@pytest.mark.parametrize(
    "spoiled",
    [lambda s: s**4, lambda s: 1 - s, lambda s: round(s * 4) / 4, lambda s: 0.9 + s / 10, lambda s: abs(s - 0.5)],
    ids=["modest", "reversed", "five values", "all high", "no order"],
)
def test_targets_are_met_by_proxies_that_do_not_know_how_sure_they_are(spoiled: Callable[[float], float]) -> None:
    # A window of rows, and samples of it without replacement: what a cascade does.
    seeds = 200
    window = [Label(spoiled(label.score), label.is_true) for label in drawn(777, 2000, 0.2)]
    met = 0
    for seed in range(seeds):
        result = achieved(window, learn(random.Random(seed).sample(window, 452), 0.95, 0.95))
        met += result.precision >= 0.95 and result.recall >= 0.95
    assert met >= 0.95 * seeds


@pytest.mark.parametrize("rows", [50, 300, 2000])
def test_drawing_without_replacement_has_smaller_tails(rows: int) -> None:
    for n, marked in itertools.product((20, 45, 250), range(1, rows, rows // 25)):
        for k in range(min(n, rows) + 1):
            binomial = binomial_tail(n, marked / rows, k)
            if binomial > 0.025 or n >= rows:
                break
            ways = sum(math.comb(marked, i) * math.comb(rows - marked, n - i) for i in range(k + 1))
            assert ways / math.comb(rows, n) <= binomial * (1 + 1e-9)


def test_a_sharp_proxy_decides_most_rows() -> None:
    result = achieved(drawn(2, 5000, 0.05), learn(drawn(1, 400, 0.05), 0.95, 0.95))
    assert result.decided > 0.5 * result.rows
    assert result.precision >= 0.95
    assert result.recall >= 0.95


def test_a_proxy_that_knows_nothing_decides_nothing_true() -> None:
    rng = random.Random(5)
    sample = [Label(rng.random(), rng.random() < 0.5) for _ in range(1000)]
    thresholds = learn(sample, 0.95, 0.95)
    assert thresholds.upper == math.inf
    # Below 5 % of the true rows' scores lie 5 % of all rows: little is lost, and little is gained.
    assert achieved(sample, thresholds).decided <= 60


def test_tied_scores_cannot_be_told_apart() -> None:
    sample = [Label(0.5, i % 2 == 0) for i in range(500)]
    thresholds = learn(sample, 0.9, 0.9)
    assert thresholds.decide(0.5) is None


def test_scores_of_only_two_values() -> None:
    sample = [Label(1.0, True)] * 200 + [Label(0.0, False)] * 200
    thresholds = learn(sample, 0.95, 0.95)
    assert thresholds.decide(1.0) is True
    assert achieved(sample, thresholds) == Achieved(rows=400, decided=200, found=200, right=200, true=200)


@pytest.mark.parametrize(
    "sample",
    [
        [],
        [Label(0.9, True)],
        [Label(0.99, True)] * 20 + [Label(0.01, False)] * 20,
        [Label(0.01, True)] * 20 + [Label(0.99, False)] * 380,
    ],
)
def test_samples_that_show_nothing_send_everything_to_the_main_model(sample: list[Label]) -> None:
    assert learn(sample, 0.95, 0.95) == Thresholds()


@given(labels_lists, targets, targets, targets, targets)
def test_stricter_targets_never_decide_more(
    sample: list[Label], precision: float, recall: float, other_precision: float, other_recall: float
) -> None:
    loose = learn(sample, min(precision, other_precision), min(recall, other_recall))
    strict = learn(sample, max(precision, other_precision), max(recall, other_recall))
    assert strict.upper >= loose.upper
    assert all(strict.decide(label.score) is None or loose.decide(label.score) is not None for label in sample)


@given(labels_lists, targets, targets)
def test_thresholds_do_not_cross_and_the_order_of_rows_does_not_matter(
    sample: list[Label], precision: float, recall: float
) -> None:
    thresholds = learn(sample, precision, recall)
    assert thresholds.lower <= thresholds.upper
    assert learn(sample[::-1], precision, recall) == thresholds


@given(st.integers(1, 200), st.floats(0.01, 0.99), st.data())
def test_the_binomial_tail(n: int, p: float, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    exact = sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))
    assert binomial_tail(n, p, k) == pytest.approx(exact, abs=1e-9)
