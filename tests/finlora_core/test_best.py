"""Which step of a training is published, and when it stops."""

from collections.abc import Sequence

import pytest

from finlora_core.evaluation.tasks import Metric
from finlora_core.training.best import (
    Judgement,
    best,
    is_due,
    is_out_of_patience,
    judgements,
    latest,
)


def judged(*values: float) -> Sequence[Judgement]:
    """At the steps 10, 20, …"""
    return [
        Judgement(step=10 * number, metric=Metric.ACCURACY, value=value, rows=80)
        for number, value in enumerate(values, start=1)
    ]


@pytest.mark.parametrize(
    ("values", "step"),
    [
        ((), None),
        ((0.0,), 10),
        ((0.2, 0.8, 0.5), 20),
        ((0.2, 0.5, 0.8), 30),
        ((0.2, 0.8, 0.8), 20),
        ((0.0, 0.0), 10),
    ],
)
def test_the_best_step_has_the_highest_value_and_of_equals_is_the_earliest(
    values: Sequence[float], step: int | None
) -> None:
    top = best(judged(*values))
    assert (top and top.step) == step


@pytest.mark.parametrize(
    ("values", "patience", "stops"),
    [
        ((), 1, False),
        ((0.5,), 1, False),
        ((0.5, 0.4), None, False),
        ((0.5, 0.4), 1, True),
        ((0.5, 0.5), 1, True),
        ((0.5, 0.4), 2, False),
        ((0.5, 0.4, 0.3), 2, True),
        ((0.5, 0.4, 0.6), 2, False),
        ((0.5, 0.4, 0.6, 0.6), 2, False),
        ((0.5, 0.4, 0.6, 0.6, 0.1), 2, True),
    ],
)
def test_patience_counts_the_evaluations_since_the_best_one(
    values: Sequence[float], patience: int | None, stops: bool
) -> None:
    assert is_out_of_patience(judged(*values), patience) is stops


@pytest.mark.parametrize(
    ("step", "due"), [(0, False), (1, False), (5, True), (7, False), (10, True), (12, True)]
)
def test_steps_at_which_the_schedule_saves_are_judged_and_the_last_one(
    step: int, due: bool
) -> None:
    assert is_due(step, save_steps=5, max_steps=12) is due


HISTORY = [
    {"loss": 2.0, "step": 5},
    {"eval_accuracy": 0.5, "eval_rows": 80, "epoch": 1.0, "step": 10},
    {"eval_loss": 1.5, "step": 10},
    {"loss": 1.0, "step": 15},
]


def test_what_was_judged_is_read_from_the_trainers_history() -> None:
    assert judgements(HISTORY, Metric.ACCURACY) == judged(0.5)
    assert judgements(HISTORY, Metric.TAGS) == []
    assert judged(0.5)[0].values == {"eval_accuracy": 0.5, "eval_rows": 80}


def test_what_was_logged_up_to_a_step_is_what_was_known_there() -> None:
    known = {"loss": 2.0, "eval_accuracy": 0.5, "eval_rows": 80, "epoch": 1.0, "eval_loss": 1.5}
    assert latest(HISTORY, up_to=10) == known
    assert latest(HISTORY, up_to=20) == {**known, "loss": 1.0}
