"""What every door for new runs does: check the data, store the run, offer it."""

from collections.abc import Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TypedDict

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from finlora_core import quotas
from finlora_core.access.keys import Caller
from finlora_core.datasets import registry
from finlora_core.datasets.cache import DatasetChecker
from finlora_core.datasets.check import DatasetFacts
from finlora_core.datasets.locate import find_dataset
from finlora_core.db.models import Run
from finlora_core.db.session import Database
from finlora_core.errors import (
    DatasetNotFound,
    InvalidDataset,
    InvalidRequest,
    KeyProblem,
    WrongLabels,
)
from finlora_core.evaluation.sets import rows_of
from finlora_core.evaluation.summary import fit
from finlora_core.evaluation.tasks import task_or_metric
from finlora_core.queue import RunQueue
from finlora_core.runs import lifecycle
from finlora_core.runs.config import RunConfig, RunRequest
from finlora_core.runs.lifecycle import Order
from finlora_core.settings import Settings


class Data(TypedDict):
    """Both of a run's datasets, checked."""

    dataset: DatasetFacts
    validation: DatasetFacts | None


def check_data(config: RunConfig, owner: str, settings: Settings, checker: DatasetChecker) -> Data:
    """Reads the files, unless they are known: do it before the transaction.

    Raises `DatasetNotFound`, `InvalidDataset`, `InvalidRequest`, naming the key.
    """

    def facts(key: str, written: str) -> DatasetFacts:
        try:
            path: Path = find_dataset(written, owner, settings)
            found = checker.facts(path, config.prompt_format, shown_as=written)
            if key == held_out:
                _require_judgeable(config, path, written)
            return found
        except (DatasetNotFound, InvalidDataset) as error:
            raise type(error)(str(error), key) from None

    validation = config.validation_dataset_path
    held_out = "validation_dataset_path" if validation else "dataset_path"
    return Data(
        dataset=facts("dataset_path", config.dataset_path),
        validation=facts("validation_dataset_path", validation) if validation else None,
    )


def recall_data(
    config: RunConfig, owner: str, settings: Settings, checker: DatasetChecker
) -> Data | None:
    """What `check_data` would find, or None where it has to read a file for that, or to refuse."""

    def recall(written: str) -> DatasetFacts | None:
        return checker.recall(find_dataset(written, owner, settings), config.prompt_format)

    if config.evaluation_task is not None:
        return None
    held_out = config.validation_dataset_path
    try:
        dataset, validation = recall(config.dataset_path), recall(held_out) if held_out else None
    except DatasetNotFound:
        return None
    if dataset is None or (held_out and validation is None):
        return None
    return Data(dataset=dataset, validation=validation)


def _require_judgeable(config: RunConfig, path: Path, written: str) -> None:
    """Of a share that is drawn later: its whole dataset. Raises `InvalidDataset`,
    `InvalidRequest`."""
    if config.evaluation_task is None:
        return
    task = task_or_metric(config.evaluation_task)
    targets = ((row.line, row.target) for row in rows_of(path, config.prompt_format))
    try:
        fit(task, targets, shown_as=written)
    except WrongLabels as error:
        raise InvalidRequest(KeyProblem("evaluation_task", error.code, str(error))) from None


def create_run(
    session: Session, request: RunRequest, caller: Caller, data: Data, *, now: datetime
) -> Run:
    """Raises `QuotaExceeded`, and `DatasetNotFound` for an upload that is deleted meanwhile."""
    quotas.require_room_for_run(session, caller, now=now)
    registry.hold_for_run(session, caller.owner, _datasets(request))
    order = Order.of(request, request.run_name, caller.owner)
    return lifecycle.create_run(session, request.config, order, **data, now=now)


def retry_run(
    session: Session, run_id: str, config: RunConfig, caller: Caller, data: Data, *, now: datetime
) -> Run:
    """A new run of the old one's `config`. Raises as `create_run` and `lifecycle.retry_run`."""
    quotas.require_room_for_run(session, caller, now=now)
    registry.hold_for_run(session, caller.owner, _datasets(config))
    return lifecycle.retry_run(session, run_id, **data, now=now)


def _datasets(config: RunConfig) -> Iterable[str | None]:
    return config.dataset_path, config.validation_dataset_path


def offer(database: Database, queue: RunQueue, run_id: str) -> None:
    """After the commit: the run is stored, and should all of this fail, only offered later."""
    if not queue.offer(run_id):
        with suppress(SQLAlchemyError), database.transaction() as session:
            lifecycle.mark_unoffered(session, run_id)
