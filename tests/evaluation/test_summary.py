"""What is refused of an evaluation set, what is counted, and what a result says."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finlora_core.errors import InvalidDataset, WrongLabels
from finlora_core.evaluation.metrics import judge
from finlora_core.evaluation.summary import fit, summarise
from finlora_core.evaluation.tasks import Metric, Task, get_task, own_task

SENTIMENT = get_task("tfns")


def fitted(task: Task, *targets: object) -> Task:
    return fit(task, enumerate(targets, start=1), shown_as="x.jsonl")


def summary_of(task: Task, *rows: tuple[str, str]) -> dict[str, Any]:
    judged = [judge(task, output, target) for output, target in rows]
    return summarise(task, judged, [target for _, target in rows])


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (None, "x.jsonl, line 2: 'target' must be there and be a string"),
        (3, "x.jsonl, line 2: 'target' must be there and be a string"),
        (" ", "x.jsonl, line 2: 'target' is blank"),
    ],
)
def test_a_row_without_a_target_is_refused_by_its_line(target: object, said: str) -> None:
    with pytest.raises(InvalidDataset, match=said):
        fitted(SENTIMENT, "positive", target)


def test_a_set_without_rows_is_refused() -> None:
    with pytest.raises(InvalidDataset, match=r"x\.jsonl has no rows"):
        fitted(SENTIMENT)


def test_labels_of_which_no_target_is_one_are_refused_and_named() -> None:
    with pytest.raises(WrongLabels, match=r"negative, neutral, positive.*it has 'up', 'down'"):
        fitted(SENTIMENT, "up", "down", "Up")
    with pytest.raises(WrongLabels, match="no target is a number"):
        fitted(get_task("formula"), "three")
    with pytest.raises(WrongLabels, match="A, B, C, D"):
        fitted(get_task("cpa"), "because", "Q")


def test_single_targets_outside_the_labels_are_let_in() -> None:
    assert fitted(SENTIMENT, "up", "positive") is SENTIMENT


def test_without_labels_the_distinct_targets_are_the_labels() -> None:
    assert fitted(own_task("accuracy"), "up", "Down ", "UP").labels == ("up", "Down")


def test_accuracy_and_weighted_f1_of_five_rows() -> None:
    summary = summary_of(
        SENTIMENT,
        ("positive", "positive"),
        ("Positive", "positive"),
        ("negative", "positive"),
        ("negative", "negative"),
        ("no idea", "negative"),
    )
    # positive: precision 1, recall 2/3, F1 0.8; negative: 1/2, 1/2, 0.5; weighted 3 to 2
    assert summary["value"] == pytest.approx(0.6)
    assert summary["f1_weighted"] == pytest.approx((3 * 0.8 + 2 * 0.5) / 5)
    assert (summary["rows"], summary["unread"], summary["empty_outputs"]) == (5, 1, 0)
    assert summary["labels"] == [
        {"label": "negative", "support": 2, "recall": 0.5},
        {"label": "neutral", "support": 0, "recall": None},
        {"label": "positive", "support": 3, "recall": pytest.approx(2 / 3)},
    ]
    assert summary["labels_never_seen"] == ["neutral"]
    assert (summary["unseen_labels"], summary["only_one_class"]) == ({}, False)


def test_tags_are_pooled_over_all_positions() -> None:
    summary = summary_of(get_task("finer"), ("A,B", "A,B"), ("A", "A,C"), ("", "C"))
    # 3 of 5; A: 2 of 2 right, B: 1 of 1, C: none of 2
    assert summary["value"] == pytest.approx(3 / 5)
    assert summary["f1_weighted"] == pytest.approx(3 / 5)
    assert (summary["rows"], summary["empty_outputs"], summary["unread"]) == (3, 1, 1)


def test_numbers_that_are_near_enough_are_one_class() -> None:
    summary = summary_of(get_task("formula"), ("$3", "3.0"), ("4", "5.0"), ("", "5.0"))
    assert summary["value"] == summary["f1_weighted"] == pytest.approx(1 / 3)


def test_a_set_with_strange_targets_says_so() -> None:
    summary = summary_of(SENTIMENT, ("positive", "up"), ("", "up"), ("positive", "positive"))
    assert (summary["unseen_labels"], summary["unseen_rows"]) == ({"up": 2}, 2)
    assert summary["value"] == pytest.approx(1 / 3)
    assert summary["empty_outputs"] == 1


def test_no_more_than_twenty_strange_targets_are_listed() -> None:
    summary = summary_of(SENTIMENT, *(("positive", f"{n:02}" * 100) for n in range(30)))
    assert (len(summary["unseen_labels"]), summary["unseen_rows"]) == (20, 30)
    assert {len(text) for text in summary["unseen_labels"]} == {80}


def test_one_class_only_is_said() -> None:
    assert summary_of(SENTIMENT, ("", "positive"), ("", "Positive"))["only_one_class"]


def test_free_text_has_rouge_and_where_it_was_computed_bert_score() -> None:
    task = get_task("xbrl_term")
    judged = [judge(task, "cash", "cash"), judge(task, "debt", "cash")]
    summary = summarise(task, judged, ["cash", "cash"], bert_scores=[1.0, 0.5])
    assert (summary["value"], summary["bert_score"]) == (0.5, 0.75)
    assert "f1_weighted" not in summary


@pytest.mark.parametrize("metric", Metric)
def test_no_rows_are_no_result(metric: Metric) -> None:
    summary = summarise(own_task(metric.value), [], [])
    assert (summary["value"], summary["rows"]) == (None, 0)
    assert summary.get("f1_weighted") is None


ROWS = st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=5)


@given(st.sampled_from(Metric), ROWS)
def test_any_rows_can_be_summarised_and_stored(
    metric: Metric, rows: list[tuple[str, str]]
) -> None:
    labels = ["a", "b"] if metric is Metric.ACCURACY else []
    summary = summary_of(own_task(metric.value, labels=labels), *rows)
    assert summary["value"] is None or 0 <= summary["value"] <= 1
    json.dumps(summary, allow_nan=False)
