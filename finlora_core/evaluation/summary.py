"""An evaluation set before it is used, and what came of it after."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from finlora_core.errors import InvalidDataset, WrongLabels
from finlora_core.evaluation.metrics import Judged, answer_of, bare_tag, same_tag
from finlora_core.evaluation.reading import tags_of
from finlora_core.evaluation.tasks import Metric, Task, with_labels

CLASSES = (Metric.ACCURACY, Metric.CHOICE)
"""Their answers are classes: each has a support and a recall."""

UNREAD = ""
"""The class of outputs in which nothing could be read."""

SHOWN = 5
"""Targets in a message."""

MOST_SHOWN, LONGEST_SHOWN = 20, 80
"""Of targets outside the labels: how many a result lists, and characters of each."""


def fit(task: Task, targets: Iterable[tuple[int, object]], *, shown_as: str) -> Task:
    """The task for this set of targets, each with its line: `accuracy` without labels gets the
    distinct targets, as FinLoRA does it.

    Raises `InvalidDataset` without rows and for a target that is missing, blank or no string,
    naming the line; `WrongLabels` when no output could ever be right.
    """
    texts = [_checked(target, f"{shown_as}, line {line}") for line, target in targets]
    if not texts:
        raise InvalidDataset(f"{shown_as} has no rows to evaluate")
    if task.metric is Metric.ACCURACY and not task.labels:
        return with_labels(task, _distinct(texts))
    if all(answer_of(task, text) is None for text in texts):
        raise WrongLabels(f"{shown_as}: {_why_none_fits(task)}; it has {_examples(texts)}")
    return task


def _checked(target: object, where: str) -> str:
    if not isinstance(target, str):
        raise InvalidDataset(f"{where}: 'target' must be there and be a string")
    if not target.strip():
        raise InvalidDataset(f"{where}: 'target' is blank; nothing can be compared with it")
    return target


def _distinct(texts: Sequence[str]) -> Sequence[str]:
    """Spelled as where they first occur."""
    found: dict[str, str] = {}
    for text in texts:
        found.setdefault(text.strip().casefold(), text.strip())
    return list(found.values())


def _why_none_fits(task: Task) -> str:
    if task.metric is Metric.NUMERIC:
        return "no target is a number"
    return f"no target is one of the task's labels ({', '.join(task.labels)})"


def _examples(texts: Sequence[str]) -> str:
    return ", ".join(repr(text[:40]) for text in _distinct(texts)[:SHOWN])


def summarise(
    task: Task,
    judged: Sequence[Judged],
    targets: Sequence[str],
    *,
    bert_scores: Sequence[float] | None = None,
) -> dict[str, Any]:
    """What is stored of an evaluation, for JSON. Without rows its figures are None."""
    weight = sum(row.weight for row in judged)
    summary = {
        "metric": task.metric.value,
        "value": sum(row.score for row in judged) / weight if weight else None,
        "rows": len(judged),
        "empty_outputs": sum(row.is_empty for row in judged),
        "unread": sum(row.prediction is None for row in judged),
    }
    if task.metric is not Metric.ROUGE_L:
        summary["f1_weighted"] = _weighted_f1(list(_pairs(task, judged, targets)))
    if task.metric in CLASSES:
        summary |= _classes(task, judged, targets)
    if bert_scores:
        summary["bert_score"] = sum(bert_scores) / len(bert_scores)
    return summary


def _classes(task: Task, judged: Sequence[Judged], targets: Sequence[str]) -> dict[str, Any]:
    answers = [answer_of(task, target) for target in targets]
    support = Counter(answers)
    right = Counter(answer for answer, row in zip(answers, judged, strict=True) if row.score)
    unseen = Counter(
        target.strip()[:LONGEST_SHOWN]
        for target, answer in zip(targets, answers, strict=True)
        if answer is None
    )
    return {
        "labels": [
            {"label": label, "support": support[label], "recall": _share(right, support, label)}
            for label in task.labels
        ],
        "labels_never_seen": [label for label in task.labels if not support[label]],
        "unseen_labels": dict(unseen.most_common(MOST_SHOWN)),
        "unseen_rows": unseen.total(),
        "only_one_class": len({*support, *unseen} - {None}) == 1,
    }


def _share(
    right: Mapping[str | None, int], support: Mapping[str | None, int], label: str
) -> float | None:
    return right[label] / support[label] if support[label] else None


def _pairs(
    task: Task, judged: Sequence[Judged], targets: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """The class asked for and the class given, of each row or, of tags, each position."""
    for row, target in zip(judged, targets, strict=True):
        if task.metric is Metric.TAGS:
            given = tags_of(row.prediction or "," * (len(tags_of(target)) - 1))
            for ours, theirs in zip(given, tags_of(target), strict=True):
                asked = bare_tag(theirs)
                yield asked, asked if same_tag(ours, theirs) else bare_tag(ours)
        else:
            answer = answer_of(task, target) or target.strip()
            yield answer, answer if row.score else row.prediction or UNREAD


def _weighted_f1(pairs: Sequence[tuple[str, str]]) -> float | None:
    if not pairs:
        return None
    # here, since importing it takes most of a second that only a finished evaluation needs
    from sklearn.metrics import f1_score

    asked, given = zip(*pairs, strict=True)
    return float(f1_score(asked, given, average="weighted", zero_division=0))
