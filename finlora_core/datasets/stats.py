"""What is in a dataset's file: its first rows as they are rendered, and its measures."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from finlora_core.datasets.rows import Turn, turns_of
from finlora_core.runs.config import PromptFormat

MAX_LABELS = 20
MAX_LABEL = 100
"""Characters. With more different answers, or longer ones, they are texts, not labels."""


@dataclass(frozen=True)
class Spread:
    """Of the characters of all rows."""

    p50: int
    p95: int
    max: int


@dataclass(frozen=True)
class Stats:
    rows: int
    given: Spread
    """What the model reads."""
    trained: Spread
    """What it learns to say."""
    labels: dict[str, int] | None
    """How often each answer stands there, the most frequent first; None when they are many."""


def preview(path: Path, form: PromptFormat, rows: int) -> Sequence[Sequence[Turn]]:
    return [turns_of(row, form) for row in islice(_rows(path), rows)]


def measure(path: Path, form: PromptFormat) -> Stats:
    """Reads the whole file, which has been checked."""
    given, trained, labels = [], [], Counter[str]()
    for row in _rows(path):
        turns = turns_of(row, form)
        answer = "".join(turn.text for turn in turns if turn.is_trained)
        given.append(sum(len(turn.text) for turn in turns if not turn.is_trained))
        trained.append(len(answer))
        if len(labels) <= MAX_LABELS:
            labels[answer] += 1
    few = len(labels) <= MAX_LABELS and max(trained) <= MAX_LABEL
    return Stats(
        len(given), spread(given), spread(trained), dict(labels.most_common()) if few else None
    )


def spread(lengths: Sequence[int]) -> Spread:
    """Nearest rank: each is the length of some row."""
    ordered = sorted(lengths)
    p50, p95 = (ordered[-(-len(ordered) * percent // 100) - 1] for percent in (50, 95))
    return Spread(p50, p95, ordered[-1])


def _rows(path: Path) -> Iterator[Any]:
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                yield json.loads(line)
