"""FinLoRA's tasks, read from tasks.toml; a user's own rows have a task without a name."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from finlora_core.errors import InvalidTask, UnknownTask
from finlora_core.suggest import suggest

PERCENT = 100


class Metric(StrEnum):
    """How an output is compared with its target; docs/evaluation.md has an example of each."""

    ACCURACY = "accuracy"
    """The first of the task's labels in the output is the target."""
    CHOICE = "choice"
    """The first letter that names a choice is the target's."""
    TAGS = "tags"
    """Comma-separated tags, position by position."""
    NUMERIC = "numeric"
    """The first number is the target, within the task's tolerance."""
    CONTAINS = "contains"
    """The target stands in the output."""
    ROUGE_L = "rouge_l"
    """F-measure of the longest common subsequence of words."""


MAX_NEW_TOKENS: Mapping[Metric, int] = MappingProxyType(
    {
        Metric.ACCURACY: 10,
        Metric.CHOICE: 30,
        Metric.TAGS: 100,
        Metric.NUMERIC: 50,
        Metric.CONTAINS: 30,
        Metric.ROUGE_L: 50,
    }
)
"""Where a task does not say: FinLoRA's numbers for tasks of that metric."""

LARGEST_ANSWER = 4096
"""Tokens that a task may ask for."""

LETTERS = ("A", "B", "C", "D")
"""The choices where a task does not say."""


@dataclass(frozen=True)
class Published:
    """A result of FinLoRA's."""

    base_model: str
    variant: str | None
    """None: the base model itself."""
    metric: str
    """As `summarise` names it: `accuracy`, `f1_weighted` or `bert_score`."""
    value: float
    """Between 0 and 1."""


@dataclass(frozen=True)
class Task:
    """What is asked and how answers are judged. Raises `InvalidTask`."""

    metric: Metric
    labels: tuple[str, ...] = ()
    """Spelled as in the targets. Of `accuracy` without any: the distinct targets, see `fit`."""
    max_new_tokens: int = 0
    """0: what is usual for the metric."""
    tolerance: Decimal = Decimal(0)
    """How far a numeric answer may be from its target."""
    name: str | None = None
    """None: a user's own."""
    title: str = ""
    test_file: str = ""
    """What FinLoRA calls the file with the test set."""
    prompt: str = "{context}"
    """How FinLoRA builds a row's context."""
    aliases: tuple[tuple[str, str], ...] = ()
    """Other spellings, in outputs and targets, each with the label that it means."""
    published: tuple[Published, ...] = ()

    def __post_init__(self) -> None:
        if not self.max_new_tokens:
            object.__setattr__(self, "max_new_tokens", MAX_NEW_TOKENS[self.metric])
        if self.metric is Metric.CHOICE and not self.labels:
            object.__setattr__(self, "labels", LETTERS)
        if fault := next(_faults(self), None):
            raise InvalidTask(*fault)


def own_task(
    metric: str,
    *,
    labels: Sequence[str] = (),
    max_new_tokens: int | None = None,
    tolerance: Decimal = Decimal(0),
) -> Task:
    """A task for a user's own rows. Raises `InvalidTask`, naming the key."""
    if metric not in tuple(Metric):
        raise InvalidTask("metric", f"no metric {metric!r}; there are {', '.join(Metric)}")
    if max_new_tokens is not None and max_new_tokens < 1:
        raise InvalidTask("max_new_tokens", "must be at least 1")
    return Task(
        Metric(metric),
        labels=tuple(labels),
        max_new_tokens=max_new_tokens or 0,
        tolerance=tolerance,
    )


def get_task(name: str) -> Task:
    """Raises `UnknownTask`, naming the nearest."""
    tasks = load_tasks()
    if name not in tasks:
        raise UnknownTask(f"there is no task {name!r}; {suggest(name, tasks)}")
    return tasks[name]


def task_or_metric(name: str) -> Task:
    """FinLoRA's task, or a metric by its name, for rows of one's own. Raises `UnknownTask`."""
    return own_task(name) if name in tuple(Metric) else get_task(name)


@cache
def tasks_and_metrics() -> Sequence[str]:
    """What `task_or_metric` knows."""
    return (*load_tasks(), *Metric)


@cache
def load_tasks() -> Mapping[str, Task]:
    """FinLoRA's tasks by name, in the order of its tables."""
    text = files("finlora_core.evaluation").joinpath("tasks.toml").read_text("utf-8")
    records = tomllib.loads(text)
    return MappingProxyType({name: _task(name, record) for name, record in records.items()})


def _task(name: str, record: Mapping[str, Any]) -> Task:
    typed = {
        "test_file": record.get("test_file", f"{name}_test.jsonl"),
        "metric": Metric(record["metric"]),
        "labels": tuple(record.get("labels", ())),
        "tolerance": Decimal(record.get("tolerance", 0)),
        "aliases": tuple(record.get("aliases", {}).items()),
        "published": tuple(_published(record.get("published", {}))),
    }
    return Task(**{**record, **typed, "name": name})


def _published(table: Mapping[str, Mapping[str, Sequence[float]]]) -> Iterator[Published]:
    for base_model, results in table.items():
        for variant, figures in results.items():
            who = (base_model, None if variant == "base" else variant)
            if len(figures) == 1:
                yield Published(*who, "bert_score", figures[0])
            else:
                yield Published(*who, "accuracy", figures[0] / PERCENT)
                yield Published(*who, "f1_weighted", figures[1])


def with_labels(task: Task, labels: Sequence[str]) -> Task:
    return replace(task, labels=tuple(labels))


def _faults(task: Task) -> Iterator[tuple[str, str]]:
    """Key and message of what is wrong."""
    if not 1 <= task.max_new_tokens <= LARGEST_ANSWER:
        yield "max_new_tokens", f"must be between 1 and {LARGEST_ANSWER}"
    if task.labels and task.metric not in (Metric.ACCURACY, Metric.CHOICE):
        yield "labels", f"{task.metric} does not choose among labels"
    if any(not label.strip() for label in task.labels):
        yield "labels", "a label must not be blank"
    if len({label.casefold().strip() for label in task.labels}) < len(task.labels):
        yield "labels", "labels must differ in more than case"
    if task.metric is Metric.CHOICE and not all(_is_letter(label) for label in task.labels):
        yield "labels", "choices are letters from A to Z"
    if task.tolerance and task.metric is not Metric.NUMERIC:
        yield "tolerance", f"{task.metric} has no tolerance"
    if not task.tolerance.is_finite() or task.tolerance < 0:
        yield "tolerance", "must be a number of at least 0"


def _is_letter(label: str) -> bool:
    return len(label) == 1 and "A" <= label <= "Z"
