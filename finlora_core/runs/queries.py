"""Reading runs: one, a page of them, how many wait before one."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, Select, Text, bindparam, cast, func, select
from sqlalchemy.orm import Session

from finlora_core.db.models import Adapter, Run, RunAttempt, Worker
from finlora_core.db.pages import Page, page, page_of_columns
from finlora_core.errors import NotFound
from finlora_core.runs.kind import RunKind
from finlora_core.runs.status import RunStatus
from finlora_core.runs.turns import places

_UNSEEN = frozenset(
    {"axolotl_yaml", "config", "lease_owner", "lease_token", "lease_expires_at", "offered_at"}
)
"""Columns that nobody is shown with a run: among them the longest. The config is there as text,
which who has seen it before need not read."""


def get_any_run(session: Session, run_id: str) -> Run:
    """Whosever it is: for the service itself, never for a request. Raises `NotFound`."""
    run = session.get(Run, run_id)
    if run is None:
        raise NotFound("run", run_id)
    return run


def get_run(session: Session, owner: str, run_id: str, kind: RunKind = RunKind.TRAINING) -> Run:
    """Raises `NotFound`."""
    run = session.scalars(_one(), {"id": run_id, "owner": owner}).first()
    if run is None or run.kind is not kind:
        raise NotFound(kind.word, run_id)
    return run


def list_runs(
    session: Session,
    owner: str,
    *,
    kind: RunKind = RunKind.TRAINING,
    status: RunStatus | None,
    name: str | None,
    variant: str | None = None,
    cursor: str | None,
    limit: int,
) -> Page[Run]:
    """Newest first. Raises `InvalidCursor`."""
    own = _of(select(Run), owner=owner, kind=kind, status=status, name=name, variant=variant)
    return page(session, own, Run, cursor, limit)


def show_run(connection: Connection, owner: str, run_id: str) -> Row[Any]:
    """The columns of a training that people see, and its adapter's id. Raises `NotFound`."""
    asked = {"id": run_id, "owner": owner}
    run = connection.execute(_shown_one(), asked).one_or_none()
    if run is None:
        raise NotFound(RunKind.TRAINING.word, run_id)
    return run


def show_runs(
    connection: Connection,
    owner: str,
    *,
    status: RunStatus | None,
    name: str | None,
    variant: str | None,
    cursor: str | None,
    limit: int,
) -> Page[Any]:
    """`show_run` of each, newest first. Raises `InvalidCursor`."""
    own = _of(
        _shown(), owner=owner, kind=RunKind.TRAINING, status=status, name=name, variant=variant
    )
    return page_of_columns(connection, own, Run, cursor, limit)


def queue_positions(connection: Connection, runs: Sequence[Run | Row[Any]]) -> Mapping[str, int]:
    """By id, of those that wait: see `turns.places`."""
    waiting = [run for run in runs if run.status is RunStatus.QUEUED]
    found: dict[str, int] = {}
    for owner in {run.owner for run in waiting}:
        found |= places(connection, owner, [run for run in waiting if run.owner == owner])
    return found


def lacking_gpus(connection: Connection, runs: Sequence[Run | Row[Any]]) -> Mapping[str, str]:
    """By id, of those that wait: what none of the workers has; nothing of runs on one GPU."""
    waiting = [run for run in runs if run.status is RunStatus.QUEUED and run.gpus > 1]
    if not waiting:
        return {}
    most = connection.scalar(select(func.max(Worker.gpus))) or 0
    return {
        run.id: f"a worker with {run.gpus} GPUs; the largest that is up has {most}"
        for run in waiting
        if run.gpus > most
    }


def list_attempts(session: Session, run_id: str) -> Sequence[RunAttempt]:
    """The oldest first."""
    of_run = select(RunAttempt).where(RunAttempt.run_id == run_id)
    return session.scalars(of_run.order_by(RunAttempt.number)).all()


def seconds_trained(session: Session, run_id: str) -> float:
    """By the attempts that have ended, all together."""
    ended = [attempt for attempt in list_attempts(session, run_id) if attempt.ended_at]
    return sum((a.ended_at - a.started_at).total_seconds() for a in ended if a.ended_at)


def ancestors(session: Session, run: Run) -> Sequence[str]:
    """The runs that this one tries again, the nearest first."""
    found: list[str] = []
    while run.parent_id is not None:
        run = get_any_run(session, run.parent_id)
        found.append(run.id)
    return found


def adapters(session: Session, runs: Sequence[Run]) -> Mapping[str, Adapter]:
    """What each run has published, by the run's id."""
    succeeded = [run.id for run in runs if run.status is RunStatus.SUCCEEDED]
    if not succeeded:
        return {}
    found = session.scalars(select(Adapter).where(Adapter.run_id.in_(succeeded)))
    return {adapter.run_id: adapter for adapter in found if adapter.run_id is not None}


def adapter_id(connection: Connection, run: Run) -> str | None:
    """What the run has published."""
    if run.status is not RunStatus.SUCCEEDED:
        return None
    return connection.scalar(select(Adapter.id).where(Adapter.run_id == run.id))


@cache  # to build such a statement takes as long as to execute it
def _one() -> Select[Run]:
    return select(Run).where(Run.id == bindparam("id"), Run.owner == bindparam("owner"))


@cache
def _shown_one() -> Select[Any]:
    asked = Run.id == bindparam("id"), Run.owner == bindparam("owner")
    return _shown().where(*asked, Run.kind == RunKind.TRAINING)


@cache
def _shown() -> Select[Any]:
    columns = Run.__mapper__.columns.items()
    seen = [column.label(key) for key, column in columns if key not in _UNSEEN]
    published = select(Adapter.id).where(Adapter.run_id == Run.id).scalar_subquery()
    config = cast(Run.config, Text)
    return select(*seen, config.label("config_json"), published.label("adapter_id"))


def _of(query: Select[Any], **wanted: Any) -> Select[Any]:
    """What is None may be anything."""
    return query.where(
        *(getattr(Run, key) == value for key, value in wanted.items() if value is not None)
    )
