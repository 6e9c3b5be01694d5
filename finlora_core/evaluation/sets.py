"""The rows of an evaluation: which they are, what is asked, and what should come out.

The same on the server, which refuses what cannot be judged, and on the worker.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from finlora_core.datasets.cache import DatasetChecker
from finlora_core.datasets.check import DatasetFacts, detect_form
from finlora_core.datasets.locate import find_dataset, locate_dataset
from finlora_core.datasets.rows import turns_of
from finlora_core.errors import (
    DatasetNotFound,
    InvalidDataset,
    InvalidRequest,
    InvalidTask,
    KeyProblem,
    UnknownTask,
    WrongLabels,
)
from finlora_core.evaluation.config import EvaluationConfig, EvaluationSet
from finlora_core.evaluation.summary import fit
from finlora_core.evaluation.tasks import Task, get_task, own_task
from finlora_core.runs.config import PromptFormat
from finlora_core.settings import Settings

Given = tuple[tuple[str, str], ...]
"""Role and text of all that comes before the answer, as `datasets.rows.turns_of` has it."""

TEST_SETS = ("../data/test/{file}", "{file}")
"""Where a FinLoRA checkout has them, seen from its lora/ folder; and a folder of nothing else."""


@dataclass(frozen=True)
class Row:
    line: int
    """Of its file, counted from 1."""
    given: Given
    target: str

    @property
    def prompt_sha256(self) -> str:
        return hashlib.sha256(json.dumps(self.given).encode()).hexdigest()


@dataclass(frozen=True)
class Rows:
    """Those of a set that are judged, in the order of the file."""

    rows: Sequence[Row]

    @property
    def sha256(self) -> str:
        """Two results can be compared row by row when it is the same."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(f"{json.dumps([row.given, row.target])}\n".encode())
        return digest.hexdigest()

    @property
    def targets(self) -> Sequence[str]:
        return [row.target for row in self.rows]


@dataclass(frozen=True)
class FoundSet:
    """A set that is there: its file, and what its answers are held against."""

    written: str
    """Its path, as a person would write it."""
    path: Path
    form: PromptFormat
    facts: DatasetFacts
    task: Task

    def rows(self, limit: int | None, seed: int) -> Rows:
        """All, or `limit` of them, the same for the same seed."""
        wanted = drawn(self.facts.rows, limit, seed)
        found = enumerate(rows_of(self.path, self.form))
        return Rows([row for n, row in found if n in wanted])

    @property
    def name(self) -> str:
        """`tfns`; of a set without a task its file's."""
        return self.task.name or self.path.stem


def find_sets(
    config: EvaluationConfig, owner: str, settings: Settings, checker: DatasetChecker
) -> Sequence[FoundSet]:
    """Raises `DatasetNotFound`, `InvalidDataset`, `InvalidRequest`, naming the key."""
    return [
        _find(one, f"tasks.{number}", owner, settings, checker)
        for number, one in enumerate(config.tasks)
    ]


def find_test_set(task: Task, roots: Sequence[Path]) -> tuple[str, Path] | None:
    """The path of a task's own rows as a person would write it, and the real one."""
    for written in paths_of_test_set(task):
        with suppress(DatasetNotFound):
            return written, locate_dataset(written, roots)
    return None


def paths_of_test_set(task: Task) -> Sequence[str]:
    return [pattern.format(file=task.test_file) for pattern in TEST_SETS]


def sha256_of(sets: Sequence[FoundSet]) -> str:
    return hashlib.sha256("".join(one.facts.sha256 for one in sets).encode()).hexdigest()


def rows_in(sets: Sequence[FoundSet], limit: int | None) -> int:
    return sum(min(one.facts.rows, limit or one.facts.rows) for one in sets)


def _find(
    wanted: EvaluationSet, key: str, owner: str, settings: Settings, checker: DatasetChecker
) -> FoundSet:
    task = _task(wanted, key)
    try:
        written, path = _locate(wanted, owner, settings)
        form = wanted.prompt_format or detect_form(path)
        facts = checker.facts(path, form, shown_as=written)
        targets = ((row.line, row.target) for row in rows_of(path, form))
        return FoundSet(written, path, form, facts, fit(task, targets, shown_as=written))
    except WrongLabels as error:
        problem = KeyProblem(f"{key}.labels", error.code, str(error))
        raise InvalidRequest(problem) from None
    except (DatasetNotFound, InvalidDataset) as error:
        raise type(error)(str(error), f"{key}.dataset_path") from None


def _task(wanted: EvaluationSet, key: str) -> Task:
    try:
        task = get_task(wanted.task) if wanted.task else own_task(wanted.metric or "")
        return replace(task, **_changed(wanted))
    except (UnknownTask, InvalidTask) as error:
        problems = (KeyProblem(f"{key}.{p.key}", p.code, p.message) for p in error.problems)
        raise InvalidRequest(*problems) from None


def _changed(wanted: EvaluationSet) -> Mapping[str, Any]:
    """What it asks for that the task, or the metric, has otherwise."""
    changed: dict[str, Any] = {}
    if wanted.labels is not None:
        changed["labels"] = tuple(wanted.labels)
    if wanted.max_new_tokens is not None:
        changed["max_new_tokens"] = wanted.max_new_tokens
    if wanted.tolerance is not None:
        changed["tolerance"] = Decimal(str(wanted.tolerance))
    return changed


def _locate(wanted: EvaluationSet, owner: str, settings: Settings) -> tuple[str, Path]:
    if wanted.dataset_path is not None:
        return wanted.dataset_path, find_dataset(wanted.dataset_path, owner, settings)
    task = get_task(wanted.task or "")
    found = find_test_set(task, settings.datasets)
    if found is None:
        raise DatasetNotFound(
            f"the test set of {task.name} is not inside the dataset roots as "
            f"{' or '.join(paths_of_test_set(task))}; put it there, or give its dataset_path"
        )
    return found


def drawn(rows: int, limit: int | None, seed: int) -> frozenset[int] | range:
    """Which of so many rows are judged."""
    if limit is None or limit >= rows:
        return range(rows)
    return frozenset(random.Random(seed).sample(range(rows), limit))  # noqa: S311  # not secret


def rows_of(path: Path, form: PromptFormat) -> Iterator[Row]:
    """Of a file that has been checked."""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _row(number, json.loads(line), form)


def _row(line: int, row: Mapping[str, Any], form: PromptFormat) -> Row:
    """The last thing that the model would learn to say is what it is to answer."""
    turns = turns_of(row, form)
    last = max(n for n, turn in enumerate(turns) if turn.is_trained)
    given = tuple((turn.role, turn.text) for turn in turns[:last])
    return Row(line, given, turns[last].text)
