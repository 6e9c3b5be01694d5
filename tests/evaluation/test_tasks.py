"""The tasks that come with the service, and a user's own."""

from decimal import Decimal
from pathlib import Path

import pytest

from finlora_core.errors import InvalidTask, UnknownTask
from finlora_core.evaluation.metrics import judge
from finlora_core.evaluation.tasks import (
    MAX_NEW_TOKENS,
    Metric,
    Task,
    get_task,
    load_tasks,
    own_task,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "evaluation.md"

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"

TOKENS = {
    "fpb fiqa tfns nwgi headline ner": {10},
    "xbrl_tags_extract xbrl_value_extract xbrl_formula_extract xbrl_formula_calc_extract": {
        20,
        30,
    },
    "formula xbrl_term financebench": {50},
    "finer fnxl": {100},
    "cfa_level1 cfa_level2 cfa_level3 cpa": {30},
}
"""FinLoRA's, see tasks.toml."""

FINLORA = [task for task in load_tasks().values() if task.published]


def test_all_of_finloras_tasks_are_there() -> None:
    assert {name for names in TOKENS for name in names.split()} <= {*load_tasks()}


@pytest.mark.parametrize("task", load_tasks().values(), ids=lambda task: task.name)
def test_a_record_is_sound(task: Task) -> None:
    assert task.title
    assert {label for _, label in task.aliases} <= {*task.labels}
    assert (task.metric is Metric.ACCURACY) <= bool(task.labels)
    assert "{" in task.prompt


@pytest.mark.parametrize(("names", "tokens"), TOKENS.items())
def test_an_answer_has_finloras_length(names: str, tokens: set[int]) -> None:
    assert {get_task(name).max_new_tokens for name in names.split()} <= tokens


@pytest.mark.parametrize("task", FINLORA, ids=lambda task: task.name)
def test_published_figures_are_shares_of_what_the_task_measures(task: Task) -> None:
    metrics = {"bert_score"} if task.metric is Metric.ROUGE_L else {"accuracy", "f1_weighted"}
    assert {each.metric for each in task.published} == metrics
    assert all(0 < each.value < 1 for each in task.published)
    variants = {each.variant for each in task.published if each.base_model == LLAMA}
    assert variants == {None, "8bits_r8", "4bits_r4", "8bits_r8_dora", "8bits_r8_rslora"}


def test_a_published_figure_is_the_one_of_finloras_readme() -> None:
    lora = {
        each.metric: each.value
        for each in get_task("tfns").published
        if (each.base_model, each.variant) == (LLAMA, "8bits_r8")
    }
    assert lora == {"accuracy": pytest.approx(0.8802), "f1_weighted": 0.932}


def test_an_unknown_task_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownTask, match=r"no task 'xbrl_finer'; .*finer"):
        get_task("xbrl_finer")


def test_seven_levels_of_sentiment_are_read_as_three() -> None:
    task = get_task("nwgi")
    for level, _ in task.aliases:
        assert judge(task, level, level).prediction == level.split()[1]


@pytest.mark.parametrize("metric", Metric)
def test_a_metric_alone_is_a_task(metric: Metric) -> None:
    assert own_task(metric.value).max_new_tokens == MAX_NEW_TOKENS[metric]


def test_a_users_own_task_says_what_it_likes() -> None:
    task = own_task("accuracy", labels=["up", "down"], max_new_tokens=3)
    assert (task.labels, task.max_new_tokens, task.name) == (("up", "down"), 3, None)
    assert own_task("numeric", tolerance=Decimal("0.5")).tolerance == Decimal("0.5")


@pytest.mark.parametrize(
    ("metric", "more", "key"),
    [
        ("f1", {}, "metric"),
        ("accuracy", {"labels": ["a", " A"]}, "labels"),
        ("accuracy", {"labels": ["a", " "]}, "labels"),
        ("choice", {"labels": ["A", "yes"]}, "labels"),
        ("tags", {"labels": ["a"]}, "labels"),
        ("accuracy", {"max_new_tokens": 0}, "max_new_tokens"),
        ("accuracy", {"max_new_tokens": 100_000}, "max_new_tokens"),
        ("accuracy", {"tolerance": Decimal(1)}, "tolerance"),
        ("numeric", {"tolerance": Decimal(-1)}, "tolerance"),
        ("numeric", {"tolerance": Decimal("NaN")}, "tolerance"),
    ],
)
def test_what_does_not_go_together_is_refused_by_its_key(
    metric: str, more: dict[str, object], key: str
) -> None:
    with pytest.raises(InvalidTask) as refused:
        own_task(metric, **more)  # type: ignore[arg-type]  # as it may come from outside
    assert [problem.key for problem in refused.value.problems] == [key]


def test_the_documentation_lists_finloras_tasks_as_they_are() -> None:
    rows = [
        f"| `{task.name}` | {task.title} | `{task.metric}` | {', '.join(task.labels)} "
        f"| {task.max_new_tokens} |".replace("|  |", "| |")
        for task in FINLORA
    ]
    listed = [line for line in DOCUMENT.read_text("utf-8").splitlines() if line[:3] == "| `"]
    assert listed[: len(rows)] == rows
