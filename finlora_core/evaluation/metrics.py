"""Judge one answer. Pure, and total: no text raises.

The order of business of an evaluation: `fit` the task to the targets, `judge` each output,
`summarise` them all.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache, lru_cache
from typing import Any

from finlora_core.evaluation.reading import (
    first_label,
    first_letter,
    first_number,
    spellings,
    stands_in,
    tags_of,
    words_of,
)
from finlora_core.evaluation.tasks import Metric, Task

GAAP = "us-gaap:"


@dataclass(frozen=True)
class Judged:
    """A row's share of the result, which is the sum of scores over the sum of weights."""

    prediction: str | None
    """What was read in the output, for people and for F1; None: nothing could be read."""
    score: float
    """From 0 to `weight`."""
    weight: float = 1.0
    """How many answers the row asks for: of tags as many as the target has."""
    is_empty: bool = False
    """Whether the output was blank."""


def judge(task: Task, output: str, target: str) -> Judged:
    """`task` must be fitted: `accuracy` without labels reads nothing."""
    judged = _JUDGES[task.metric](task, output, target)
    return replace(judged, is_empty=not output.strip())


def answer_of(task: Task, target: str) -> str | None:
    """What a right output's `prediction` would be; None where no output can be right."""
    match task.metric:
        case Metric.ACCURACY:
            return _spellings(task).get(target.strip().casefold())
        case Metric.CHOICE:
            return first_letter(target, task.labels)
        case Metric.NUMERIC:
            number = first_number(target)
            return None if number is None else str(number[0])
    return target.strip() or None


def _accuracy(task: Task, output: str, target: str) -> Judged:
    prediction = first_label(output, _spellings(task))
    return _exactly(prediction, answer_of(task, target))


def _choice(task: Task, output: str, target: str) -> Judged:
    return _exactly(first_letter(output, task.labels), answer_of(task, target))


def _exactly(prediction: str | None, answer: str | None) -> Judged:
    return Judged(prediction, float(prediction is not None and prediction == answer))


def _tags(task: Task, output: str, target: str) -> Judged:
    """Padded with empty tags to the target's number, or cut off there."""
    asked = tags_of(target)
    given = [*tags_of(output), *[""] * len(asked)][: len(asked)]
    right = sum(same_tag(ours, theirs) for ours, theirs in zip(given, asked, strict=True))
    return Judged(",".join(given) if any(given) else None, float(right), float(len(asked)))


def same_tag(given: str, asked: str) -> bool:
    """Whatever the case, and whether or not it names its taxonomy."""
    return bool(asked) and bare_tag(given) == bare_tag(asked)


def bare_tag(tag: str) -> str:
    return tag.casefold().strip("\"'`. ").removeprefix(GAAP)


def _numeric(task: Task, output: str, target: str) -> Judged:
    given, asked = first_number(output), first_number(target)
    if given is None:
        return Judged(None, 0.0)
    is_right = asked is not None and any(
        abs(ours - theirs) <= task.tolerance
        for ours in _readings(*given)
        for theirs in _readings(*asked)
    )
    return Judged(str(given[0]), float(is_right))


def _readings(number: Decimal, is_percent: bool) -> tuple[Decimal, ...]:
    """`5 %` is 5 where the question asks for percent, and 0.05 where it asks for a rate."""
    return (number, number / 100) if is_percent else (number,)


def _contains(task: Task, output: str, target: str) -> Judged:
    if stands_in(target, output):
        return Judged(target.strip(), 1.0)
    return Judged(output.strip() or None, 0.0)


def _rouge_l(task: Task, output: str, target: str) -> Judged:
    score = _rouge().score(target, output)["rougeL"].fmeasure
    return Judged(output.strip() or None, float(score))


_JUDGES: Mapping[Metric, Callable[[Task, str, str], Judged]] = {
    Metric.ACCURACY: _accuracy,
    Metric.CHOICE: _choice,
    Metric.TAGS: _tags,
    Metric.NUMERIC: _numeric,
    Metric.CONTAINS: _contains,
    Metric.ROUGE_L: _rouge_l,
}


def _spellings(task: Task) -> Mapping[str, str]:
    return _cached_spellings(task.labels, task.aliases)


@lru_cache(maxsize=8)
def _cached_spellings(
    labels: tuple[str, ...], aliases: tuple[tuple[str, str], ...]
) -> Mapping[str, str]:
    return spellings(labels, dict(aliases))


class _Words:
    """ROUGE's own tokenizer drops every letter outside a-z: two Chinese sentences would have
    nothing to compare."""

    def tokenize(self, text: str) -> list[str]:
        return words_of(text)


@cache
def _rouge() -> Any:
    # here, since importing it takes a second that only free text needs
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=_Words())
