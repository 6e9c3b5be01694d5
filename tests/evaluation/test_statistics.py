"""Intervals and tests against cases with known answers."""

from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finlora_core.evaluation.statistics import (
    Difference,
    McNemar,
    bootstrap_interval,
    mcnemar,
    paired_bootstrap,
    verdict,
)


def ones(rows: int) -> list[float]:
    return [1.0] * rows


def test_the_interval_of_an_accuracy_is_that_of_a_binomial() -> None:
    low, high = bootstrap_interval([1.0] * 300 + [0.0] * 100, ones(400))
    deviation = sqrt(0.75 * 0.25 / 400)
    assert low == pytest.approx(0.75 - 1.96 * deviation, abs=0.004)
    assert high == pytest.approx(0.75 + 1.96 * deviation, abs=0.004)


def test_an_interval_holds_the_truth_in_about_19_of_20_samples() -> None:
    random = np.random.default_rng(5)
    held = 0
    for seed in range(200):
        scores = (random.random(150) < 0.7).astype(float)
        low, high = bootstrap_interval(list(scores), ones(150), draws=1000, seed=seed)
        held += low <= 0.7 <= high
    assert 180 <= held <= 199


def test_the_same_seed_gives_the_same_interval_and_another_another() -> None:
    scores = list(np.random.default_rng(1).random(50))
    first = bootstrap_interval(scores, ones(50), seed=3)
    assert bootstrap_interval(scores, ones(50), seed=3) == first
    assert bootstrap_interval(scores, ones(50), seed=4) != first


def test_rows_with_more_answers_count_more() -> None:
    # 4 of 4 tags and 0 of 1: 0.8, whichever way round
    result = paired_bootstrap([4.0, 0.0], [0.0, 0.0], [4.0, 1.0])
    assert result.difference == pytest.approx(0.8)
    assert (result.low, result.high) == (0.0, 1.0)


def test_pairing_sees_what_two_intervals_cannot() -> None:
    random = np.random.default_rng(2)
    b = (random.random(1000) < 0.6).astype(float)
    a = b.copy()
    a[np.flatnonzero(b == 0)[:30]] = 1
    result = paired_bootstrap(list(a), list(b), ones(1000))
    assert result.difference == pytest.approx(0.03)
    assert 0.018 < result.low < 0.03 < result.high < 0.042
    assert bootstrap_interval(list(a), ones(1000))[0] < bootstrap_interval(list(b), ones(1000))[1]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 2**32))
def test_a_against_itself_is_no_difference(scores: list[float], seed: int) -> None:
    result = paired_bootstrap(scores, scores, ones(len(scores)), draws=100, seed=seed)
    assert result == Difference(0.0, 0.0, 0.0)
    assert verdict(result, rows=len(scores)).startswith("no difference can be shown")


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_swapping_the_sides_turns_the_sign(rows: list[tuple[float, float]]) -> None:
    a, b = [row[0] for row in rows], [row[1] for row in rows]
    there = paired_bootstrap(a, b, ones(len(rows)), draws=100)
    back = paired_bootstrap(b, a, ones(len(rows)), draws=100)
    assert back.difference == pytest.approx(-there.difference)
    assert back.low == pytest.approx(-there.high)
    assert back.high == pytest.approx(-there.low)


@pytest.mark.parametrize("weights", [[], [1.0, 0.0], [1.0, -1.0]])
def test_nothing_to_divide_by_is_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match=r"no rows|above 0"):
        bootstrap_interval([0.0] * len(weights), weights)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    a = [True] * 8 + [False] * 2 + [True] * 5
    b = [False] * 8 + [True] * 2 + [True] * 5
    tail = sum(comb(10, k) for k in (0, 1, 2)) / 2**10
    result = mcnemar(a, b)
    assert (result.only_a, result.only_b) == (8, 2)
    assert result.p_value == pytest.approx(2 * tail)


@pytest.mark.parametrize("rows", [[], [True, False]])
def test_sides_that_never_disagree_differ_by_chance(rows: list[bool]) -> None:
    assert mcnemar(rows, rows) == McNemar(0, 0, 1.0)


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (Difference(0.031, 0.012, 0.05), "A is better: +3.1 points [1.2, 5.0]"),
        (Difference(-0.031, -0.05, -0.012), "B is better: +3.1 points [1.2, 5.0]"),
        (Difference(0.01, -0.002, 0.03), "no difference can be shown with 200 rows"),
        (Difference(0.01, 0.0, 0.03), "no difference can be shown with 200 rows"),
    ],
)
def test_a_verdict_is_in_words(result: Difference, said: str) -> None:
    assert verdict(result, rows=200) == said
