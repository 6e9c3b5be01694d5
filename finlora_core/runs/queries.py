"""Reading runs: one, a page of them, how many wait before one."""

from collections.abc import Mapping, Sequence

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from finlora_core.db.models import Adapter, Run
from finlora_core.db.pages import Page, page
from finlora_core.errors import NotFound
from finlora_core.runs.status import RunStatus


def get_run(session: Session, run_id: str) -> Run:
    """Raises `NotFound`."""
    run = session.get(Run, run_id)
    if run is None:
        raise NotFound("run", run_id)
    return run


def list_runs(
    session: Session,
    *,
    status: RunStatus | None,
    name: str | None,
    variant: str | None,
    cursor: str | None,
    limit: int,
) -> Page[Run]:
    """Newest first. Raises `InvalidCursor`."""
    wanted = {"status": status, "name": name, "variant": variant}
    filters = {key: value for key, value in wanted.items() if value is not None}
    return page(session, select(Run).filter_by(**filters), Run, cursor, limit)


def queue_positions(session: Session, runs: Sequence[Run]) -> Mapping[str, int]:
    """By id, of those that wait: 0 for the run that is claimed next."""
    waiting = [run.id for run in runs if run.status is RunStatus.QUEUED]
    if not waiting:
        return {}
    place = (func.row_number().over(order_by=(Run.queued_at, Run.id)) - 1).label("place")
    queue = select(Run.id, place).where(Run.status == RunStatus.QUEUED).subquery()
    rows = session.execute(select(queue).where(queue.c.id.in_(waiting)))
    return {row.id: row.place for row in rows}


def adapter_ids(session: Session, runs: Sequence[Run]) -> Mapping[str, str]:
    """What each run has published, by the run's id."""
    of_runs = Adapter.run_id.in_([run.id for run in runs])
    rows = session.execute(select(Adapter.run_id, Adapter.id).where(of_runs))
    return {row.run_id: row.id for row in rows}
