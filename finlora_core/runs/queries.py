"""Reading runs: one, a page of them, how many wait before one."""

from sqlalchemy import func, select, tuple_
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


def queue_position(session: Session, run: Run) -> int | None:
    """0 for the run that is claimed next; None for one that does not wait."""
    if run.status is not RunStatus.QUEUED:
        return None
    ahead = tuple_(Run.queued_at, Run.id) < tuple_(run.queued_at, run.id)
    return session.scalar(
        select(func.count()).select_from(Run).where(Run.status == RunStatus.QUEUED, ahead)
    )


def adapter_id_of(session: Session, run_id: str) -> str | None:
    return session.scalar(select(Adapter.id).where(Adapter.run_id == run_id))
