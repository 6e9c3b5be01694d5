"""What a finished job has measured, as the file of results that OpenAI's jobs have."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass

from api.openai.ids import RESULT
from finlora_core.db.models import MetricPoint, Run
from finlora_core.db.session import Database
from finlora_core.errors import NotFound
from finlora_core.runs import journal, queries
from finlora_core.runs.status import RunStatus

FILENAME = "step_metrics.csv"
"""OpenAI's name for it."""

COLUMNS = {"train_loss": "loss", "valid_loss": "eval_loss", "learning_rate": "learning_rate"}
"""The table's, beside `step`, by what the trainer calls them."""

MOST_POINTS = 1_000_000


@dataclass(frozen=True)
class Result:
    id: str
    created_at: int
    content: bytes


def ids_of(run: Run) -> list[str]:
    """None before it has succeeded."""
    succeeded = run.status is RunStatus.SUCCEEDED
    return [RESULT + run.id.removeprefix("run_")] if succeeded else []


def read(database: Database, owner: str, file_id: str) -> Result:
    """Raises `NotFound`."""
    with database.reading() as session:
        run = queries.get_run(session, owner, f"run_{file_id.removeprefix(RESULT)}")
        if file_id not in ids_of(run) or run.finished_at is None:
            raise NotFound("file", file_id)
        points = journal.read_metrics(session, run.id, after=0, limit=MOST_POINTS)
    return Result(file_id, int(run.finished_at.timestamp()), _table(points))


def _table(points: Iterable[MetricPoint]) -> bytes:
    """A step that several attempts came by counts as the last of them saw it."""
    steps: dict[int, dict[str, float]] = {}
    for point in points:
        steps.setdefault(point.step, {}).update(point.values)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["step", *COLUMNS])
    for step, values in sorted(steps.items()):
        row = [values.get(name, "") for name in COLUMNS.values()]
        if any(value != "" for value in row):
            table.writerow([step, *row])
    return text.getvalue().encode()
