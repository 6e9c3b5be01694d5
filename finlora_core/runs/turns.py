"""Whose turn it is: owners share the workers, however many runs each of them queues.

The owner with the fewest runs in training goes first; among equals, the one whose last
turn is longest ago. Within an owner, a run's priority decides, then how long it has waited.
None of these questions reads the whole queue: it may be a million runs long.
"""

from collections.abc import Iterable, Mapping, Sequence
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
    bindparam,
    case,
    func,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.orm import aliased

from finlora_core.db.models import Run

OWN_ORDER = (Run.priority.desc(), Run.queued_at, Run.id)

_PLACE = ("owner", "priority", "queued_at", "id")
"""What says where a run stands."""

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


def places(
    connection: Connection, owner: str, runs: Sequence[Run | Row[Any]]
) -> Mapping[str, int]:
    """By id: how many runs are ahead of each of these queued ones of the owner's; 0 for the one
    that is claimed next.

    Each owner's first run is ahead of any owner's second. Not counted beyond `COUNTED`.
    """
    one = len(runs) == 1
    own_places = _own_place(connection, runs[0]) if one else _own_places(connection, owner, runs)
    if all(place == COUNTED for place in own_places.values()):
        return own_places  # whoever else waits
    owners = connection.execute(_owners_and_lengths(), {"asked": owner}).all()
    return {id: _place(owners, owner, place) for id, place in own_places.items()}


def _own_place(connection: Connection, run: Run | Row[Any]) -> Mapping[str, int]:
    place = {key: getattr(run, key) for key in _PLACE}
    ahead = connection.execute(_ahead(), place).scalar_one()
    return {run.id: min(ahead, COUNTED)}


def _own_places(
    connection: Connection, owner: str, runs: Sequence[Run | Row[Any]]
) -> Mapping[str, int]:
    """A page of a long line is most often behind all that is counted."""
    last = connection.execute(_last_counted(), {"owner": owner}).one_or_none()
    if last is not None and min(map(_rank, runs)) > _rank(last):
        return dict.fromkeys([run.id for run in runs], COUNTED)
    line = connection.execute(_counted(), {"owner": owner}).scalars()
    found = {id: place for place, id in enumerate(line)}
    behind = {run.id for run in runs if last is not None and _rank(run) >= _rank(last)}
    # who is neither found nor behind has just been claimed
    return {run.id: found.get(run.id, COUNTED if run.id in behind else 0) for run in runs}


def _rank(run: Run | Row[*tuple[Any, ...]]) -> tuple[int, datetime]:
    """Between runs where it is equal, their ids decide, as the database sorts them."""
    return -run.priority, run.queued_at


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
def _counted() -> Select[str]:
    """The owner's runs in their order."""
    mine = Run.owner == bindparam("owner"), is_waiting()
    return select(Run.id).where(*mine).order_by(*OWN_ORDER).limit(COUNTED)


@cache
def _last_counted() -> Select[int, datetime]:
    last = _counted().limit(1).offset(COUNTED - 1)
    return last.with_only_columns(Run.priority, Run.queued_at)


@cache
def _ahead() -> Select[int]:
    """How many of its owner's runs are ahead of one. Where it stands is given: PostgreSQL takes
    longer to plan how to look that up than to count."""
    owner, priority, queued_at, id = (
        bindparam(key, type_=getattr(Run, key).type) for key in _PLACE
    )
    higher, equal = aliased(Run), aliased(Run)
    more = _count(higher, higher.owner == owner, is_waiting(higher), higher.priority > priority)
    earlier = _count(
        equal,
        equal.owner == owner,
        is_waiting(equal),
        equal.priority == priority,
        tuple_(equal.queued_at, equal.id) < tuple_(queued_at, id),
    )
    return select(more + earlier)


def _length(line: Subquery) -> ColumnElement[int]:
    run = aliased(Run)
    return _count(run, run.owner == line.c.owner, is_waiting(run))


def _count(run: type[Run], *conditions: ColumnElement[bool]) -> ScalarSelect[int]:
    """As far as `COUNTED`."""
    rows: Select[int] = select(literal_column("1")).where(*conditions).limit(COUNTED)
    counted = rows.correlate_except(run).subquery()
    return select(func.count()).select_from(counted).scalar_subquery()
