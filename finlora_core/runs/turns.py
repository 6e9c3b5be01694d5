"""Whose turn it is: owners share the workers, however many runs each of them queues.

The owner with the fewest runs in training goes first; among equals, the one whose last
turn is longest ago. Within an owner, a run's priority decides, then how long it has waited.
"""

from datetime import datetime

from sqlalchemy import ColumnElement, Select, Subquery, func, select
from sqlalchemy.orm import aliased

from finlora_core.db.models import Run
from finlora_core.runs.status import RunStatus

OWN_ORDER = (Run.priority.desc(), Run.queued_at, Run.id)


def owners_in_turn() -> Select[str]:
    """Those with queued runs, the one to be served next first."""
    line = waiting_owners()
    return select(line.c.owner).order_by(
        line.c.training, line.c.served.nulls_first(), line.c.waiting_since, line.c.owner
    )


def waiting_owners() -> Subquery:
    """owner, waiting_since, training (runs), served (when a run of theirs was last claimed)."""
    waiting = (
        select(Run.owner, func.min(Run.queued_at).label("waiting_since"))
        .where(Run.status == RunStatus.QUEUED)
        .group_by(Run.owner)
        .subquery()
    )
    return select(
        waiting.c.owner,
        waiting.c.waiting_since,
        _training(waiting.c.owner),
        _served(waiting.c.owner),
    ).subquery()


def _training(owner: ColumnElement[str]) -> ColumnElement[int]:
    run = aliased(Run)
    counted = select(func.count()).where(
        run.owner == owner, run.status == RunStatus.RUNNING, run.lease_expires_at.is_not(None)
    )
    return counted.scalar_subquery().label("training")


def _served(owner: ColumnElement[str]) -> ColumnElement[datetime | None]:
    run = aliased(Run)
    return (
        select(func.max(run.started_at))
        .where(run.owner == owner)
        .scalar_subquery()
        .label("served")
    )
