"""Whose turn it is: owners share the workers, however many runs each of them queues.

The owner with the fewest runs in training goes first; among equals, the one whose last
turn is longest ago. Within an owner, a run's priority decides, then how long it has waited.
None of these questions reads the whole queue: it may be a million runs long.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    CTE,
    ColumnElement,
    Connection,
    Row,
    ScalarSelect,
    Select,
    Subquery,
    and_,
    bindparam,
    case,
    func,
    literal,
    literal_column,
    or_,
    select,
    tuple_,
)
from sqlalchemy.orm import aliased

from finlora_core.db.models import Run

OWN_ORDER = (Run.priority.desc(), Run.queued_at, Run.id)

COUNTED = 1000
"""Runs ahead of one are counted up to here."""


def is_waiting(run: type[Run] = Run) -> ColumnElement[bool]:
    """Written out, since SQLite uses a partial index only where it reads the index's condition."""
    return run.status == literal_column("'queued'")


@cache
def owners_in_turn() -> Select[str]:
    """Those with queued runs, the one to be served next first."""
    line = waiting_owners()
    return select(line.c.owner).order_by(line.c.training, *_equals(line))


def waiting_owners() -> Subquery:
    """owner, waiting_since, training (runs), served (when a run of theirs was last claimed)."""
    owner = _owners().c.owner
    since = _waiting_since(owner)
    return (
        select(owner, since.label("waiting_since"), _training(owner), _served(owner))
        .where(since.is_not(None))
        .subquery()
    )


def places(connection: Connection, owner: str, run_ids: Sequence[str]) -> Mapping[str, int]:
    """How many runs are ahead of each of these queued ones of the owner's: 0 for the one that is
    claimed next.

    Each owner's first run is ahead of any owner's second. Not counted beyond `COUNTED`.
    """
    if len(run_ids) == 1:
        found = connection.execute(_own_place_of_one(), {"asked": owner, "run_id": run_ids[0]})
    else:
        found = connection.execute(_own_places(), {"asked": owner, "run_ids": run_ids})
    own_places = {id: place for id, place in found}
    if all(place == COUNTED for place in own_places.values()):
        return own_places  # whoever else waits
    owners = connection.execute(_owners_and_lengths(), {"asked": owner}).all()
    return {id: _place(owners, owner, place) for id, place in own_places.items()}


def _place(owners: Sequence[Row[Any]], owner: str, own_place: int) -> int:
    """`owners` are in the order that decides between equal turns."""
    position = next(n for n, each in enumerate(owners) if each.owner == owner)
    turn: int = own_place + owners[position].training
    before: Iterable[int] = (
        min(each.length, max(0, turn - each.training + (n < position)))
        for n, each in enumerate(owners)
        if n != position
    )
    return min(own_place + sum(before), COUNTED)


def _equals(line: Subquery) -> tuple[ColumnElement[Any], ...]:
    """What decides between owners with as many runs in training."""
    return (line.c.served.nulls_first(), line.c.waiting_since, line.c.owner)


def _owners() -> CTE:
    """Everybody who has runs, and a null: from one to the next through an index."""
    owners = select(func.min(Run.owner).label("owner")).cte("owners", recursive=True)
    run = aliased(Run)
    following = select(func.min(run.owner)).where(run.owner > owners.c.owner).scalar_subquery()
    return owners.union_all(select(following).where(owners.c.owner.is_not(None)))


def _waiting_since(owner: ColumnElement[str]) -> ScalarSelect[datetime]:
    run = aliased(Run)
    return (
        select(func.min(run.queued_at))
        .where(run.owner == owner, is_waiting(run))
        .scalar_subquery()
    )


def _training(owner: ColumnElement[str]) -> ColumnElement[int]:
    """Only what is in training has a lease. `|| ''` keeps SQLite from going through all of the
    owner's runs instead of through the leases."""
    run = aliased(Run)
    leased = run.lease_expires_at.is_not(None)
    counted = select(func.count()).where(leased, run.owner + "" == owner)
    return counted.scalar_subquery().label("training")


def _served(owner: ColumnElement[str]) -> ColumnElement[datetime | None]:
    run = aliased(Run)
    return (
        select(func.max(run.started_at))
        .where(run.owner == owner, run.started_at.is_not(None))
        .scalar_subquery()
        .label("served")
    )


@cache  # to build these statements takes thirty times as long as to execute them
def _owners_and_lengths() -> Select[Any]:
    """Not the length of the line that is asked about."""
    line = waiting_owners()
    length = case((line.c.owner == bindparam("asked"), 0), else_=_length(line))
    return select(line, length.label("length")).order_by(*_equals(line))


@cache
def _own_places() -> Select[str, int]:
    return _places_where(lambda run: run.id.in_(bindparam("run_ids", expanding=True)))


@cache
def _own_place_of_one() -> Select[str, int]:
    return _places_where(lambda run: run.id == bindparam("run_id"))


def _places_where(wanted: Callable[[type[Run]], ColumnElement[bool]]) -> Select[str, int]:
    """Only what stands before the last one counted is counted one by one."""
    mine, last = aliased(Run), _last_counted()
    is_beyond = or_(
        mine.priority < last.c.priority,
        and_(
            mine.priority == last.c.priority,
            tuple_(mine.queued_at, mine.id) > tuple_(last.c.queued_at, last.c.id),
        ),
    )
    place = case((last.c.id.is_not(None), COUNTED), else_=_own_place(mine))
    return select(mine.id, place).outerjoin(last, is_beyond).where(wanted(mine))


def _last_counted() -> Subquery:
    run = aliased(Run)
    line = select(run.priority, run.queued_at, run.id)
    waiting = line.where(run.owner == bindparam("asked"), is_waiting(run))
    ordered = waiting.order_by(run.priority.desc(), run.queued_at, run.id)
    return ordered.limit(1).offset(COUNTED - 1).subquery()


def _length(line: Subquery) -> ScalarSelect[int]:
    """As far as `COUNTED`."""
    run = aliased(Run)
    rows = select(literal(1)).where(run.owner == line.c.owner, is_waiting(run))
    counted = rows.limit(COUNTED).correlate(line).subquery()
    return select(func.count()).select_from(counted).correlate(line).scalar_subquery()


def _own_place(mine: type[Run]) -> ColumnElement[int]:
    """How many of its owner's runs are ahead of it."""
    higher, equal = aliased(Run), aliased(Run)
    more = select(func.count()).where(
        higher.owner == mine.owner, is_waiting(higher), higher.priority > mine.priority
    )
    earlier = select(func.count()).where(
        equal.owner == mine.owner,
        is_waiting(equal),
        equal.priority == mine.priority,
        tuple_(equal.queued_at, equal.id) < tuple_(mine.queued_at, mine.id),
    )
    return more.scalar_subquery() + earlier.scalar_subquery()
