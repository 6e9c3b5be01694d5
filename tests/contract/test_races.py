"""What comes at the same time happens one after the other, on both databases.

PostgreSQL lets two transactions work at once, and row locks put them in order; SQLite lets
the second one begin only when the first has ended. Nothing here waits for a time: the second
is seen to be waiting for a lock, or is done, before the first commits.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from finlora_core.db.models import Run
from finlora_core.db.session import Database, now
from finlora_core.errors import FinLoRAError
from finlora_core.runs import lifecycle, queries
from finlora_core.runs.lifecycle import Lease
from finlora_core.runs.outcome import AttemptEnd, End, Wish
from finlora_core.runs.status import Phase, RunStatus
from tests.contract.test_lifecycle import (
    COMPLETED,
    GRACE,
    SECOND,
    TTL,
    claim,
    claimed,
    create,
    finish,
    get,
    pause,
)
from tests.support import NOON, POLICY, eventually

only_postgresql = pytest.mark.parametrize("database", ["postgresql"], indirect=True)
"""On SQLite nobody else writes while a transaction is open."""

Write = Callable[[Session, Lease], object]
Answer = object
Way = Callable[[Database, Lease, Write, Write], tuple[Answer, Answer]]

STOPPED, DRAINED = AttemptEnd(end=End.STOPPED), AttemptEnd(end=End.DRAINED)
SOON, LATE = NOON + 119 * SECOND, NOON + 135 * SECOND
"""The last second of a lease that was taken at noon; when it and its grace are over."""


def claim_next(session: Session, _: Lease) -> object:
    return lifecycle.claim_next(session, worker="another", now=LATE, ttl=TTL)


def renew(session: Session, lease: Lease) -> object:
    return lifecycle.renew(session, lease, now=SOON, ttl=TTL, checkpoint_step=7)


def begin_publishing(session: Session, lease: Lease) -> None:
    lifecycle.enter_phase(session, lease, Phase.PUBLISHING, now=SOON)


def record_start(session: Session, lease: Lease) -> None:
    lifecycle.record_start(session, lease, yaml="a: b", resumed_from=7, now=SOON)


def complete(session: Session, lease: Lease) -> object:
    return lifecycle.finish(session, lease, COMPLETED, now=SOON, policy=POLICY)


def stop(session: Session, lease: Lease) -> object:
    return lifecycle.finish(session, lease, STOPPED, now=SOON, policy=POLICY)


def drain(session: Session, lease: Lease) -> object:
    return lifecycle.finish(session, lease, DRAINED, now=SOON, policy=POLICY)


def expire(session: Session, _: Lease) -> object:
    return len(lifecycle.expire_leases(session, now=LATE, grace=GRACE, policy=POLICY))


def take_back(session: Session, lease: Lease) -> object:
    return lifecycle.take_back(session, lease, now=SOON, policy=POLICY)


def cancel(session: Session, lease: Lease) -> object:
    return lifecycle.request_cancel(session, lease.run_id, now=SOON).status


def ask_to_pause(session: Session, lease: Lease) -> object:
    return lifecycle.request_pause(session, lease.run_id, now=SOON).status


def resume(session: Session, lease: Lease) -> object:
    return lifecycle.resume_run(session, lease.run_id, now=SOON).status


def offer(session: Session, lease: Lease) -> None:
    lifecycle.mark_offered(session, [lease.run_id], now=SOON)


# ---- two at once


def race(database: Database, lease: Lease, first: Write, second: Write) -> tuple[Answer, Answer]:
    """`second` comes when `first` has written and not yet committed; what each was told."""
    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as session:
            told = _answer(session, lease, first)
            late = pool.submit(_alone, database, lease, second)
            assert eventually(lambda: late.done() or _is_waiting(database, late))
        return told, late.result()


def in_turn(
    database: Database, lease: Lease, first: Write, second: Write
) -> tuple[Answer, Answer]:
    return _alone(database, lease, first), _alone(database, lease, second)


def passing_over(
    database: Database, lease: Lease, first: Write, second: Write
) -> tuple[Answer, Answer]:
    """`second` takes what nobody is at, without waiting: here that is nothing."""
    return _alone(database, lease, first), 0 if second is expire else None


def the_other_way_round(
    database: Database, lease: Lease, first: Write, second: Write
) -> tuple[Answer, Answer]:
    return in_turn(database, lease, second, first)[::-1]


def _alone(database: Database, lease: Lease, write: Write) -> Answer:
    with database.transaction() as session:
        return _answer(session, lease, write)


def _answer(session: Session, lease: Lease, write: Write) -> Answer:
    """Errors of ours are answers; any other fails the test."""
    try:
        told = write(session, lease)
    except FinLoRAError as error:
        return type(error).__name__
    return "a lease" if isinstance(told, Lease) else told


def _is_waiting(database: Database, late: Future[Answer]) -> bool:
    if database.engine.dialect.name == "sqlite":
        return late.running()  # where it waits cannot be seen from outside
    waiting = text(
        "SELECT 1 FROM pg_stat_activity "
        "WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with database.engine.connect() as connection:
        return connection.execute(waiting).first() is not None


# ---- every pair


def queued(database: Database) -> Lease:
    return Lease(create(database), 1, "of nobody")


def paused(database: Database) -> Lease:
    lease = queued(database)
    pause(database, lease.run_id)
    return lease


SITUATIONS: Mapping[Callable[[Database], Lease], Sequence[Write]] = {
    queued: (claim_next, cancel, ask_to_pause, resume, offer),
    paused: (claim_next, cancel, ask_to_pause, resume, offer),
    claimed: (
        renew, begin_publishing, complete, stop, expire, take_back,
        cancel, ask_to_pause, resume, offer,
    ),
}  # fmt: skip


WITHOUT_WAITING: Mapping[Write, Sequence[Way]] = {
    claim_next: (passing_over,),
    expire: (passing_over,),
    offer: (the_other_way_round,),
}


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__)
def test_two_at_once_are_as_one_after_the_other(
    database: Database, situation: Callable[[Database], Lease]
) -> None:
    hurry(database)
    writes = SITUATIONS[situation]
    for first, second in ((first, second) for first in writes for second in writes):
        ways = (in_turn, *WITHOUT_WAITING.get(second, ()))
        allowed = [_story(database, situation, way, first, second) for way in ways]
        assert _story(database, situation, race, first, second) in allowed, (first, second)


def _story(
    database: Database,
    situation: Callable[[Database], Lease],
    way: Way,
    first: Write,
    second: Write,
) -> object:
    """What the two were told, and what is there afterwards."""
    empty(database)
    lease = situation(database)
    told = way(database, lease, first, second)
    run = vars(get(database, lease.run_id))
    chance = ("id", "lease_token", "_sa_instance_state")
    with database.reading() as session:
        ends = [(a.end, a.resumed_from) for a in queries.list_attempts(session, lease.run_id)]
    return told, {name: run[name] for name in run if name not in chance}, ends


def hurry(database: Database) -> None:
    """Commit without waiting for the disk: for thousands of commits, and no power to lose."""
    setting = {"sqlite": "PRAGMA synchronous=OFF", "postgresql": "SET synchronous_commit=off"}

    def prepare(connection: Any, _: object) -> None:
        connection.execute(setting[database.engine.dialect.name])
        connection.commit()

    database.engine.dispose()
    event.listen(database.engine, "connect", prepare)


def empty(database: Database) -> None:
    with database.transaction() as session:
        for table in ("attempts", "runs"):
            session.execute(text(f"DELETE FROM {table}"))  # noqa: S608  # our names


# ---- the pairs that matter most, by name


def test_two_workers_at_once_do_not_wait_for_each_other_and_take_two_runs(
    database: Database,
) -> None:
    first, second = create(database), create(database, after=1)
    taken = []

    def take(session: Session, _: Lease) -> None:
        lease = lifecycle.claim_next(session, worker="w", now=LATE, ttl=TTL)
        taken.append(lease and (lease.run_id, lease.attempt))

    race(database, Lease(first, 1, ""), take, take)
    assert taken == [(first, 1), (second, 1)]


def test_a_lease_that_is_just_being_renewed_is_not_taken_away(database: Database) -> None:
    lease = claimed(database)
    assert race(database, lease, renew, expire) == (None, 0)
    run = get(database, lease.run_id)
    assert (run.status, run.lease_expires_at) == (RunStatus.RUNNING, SOON + TTL)


@only_postgresql
@pytest.mark.parametrize(("write", "nothing"), [(claim_next, None), (expire, 0)])
@pytest.mark.parametrize("situation", [queued, claimed])
def test_what_is_for_all_runs_does_not_wait_for_one_that_is_being_written(
    database: Database,
    situation: Callable[[Database], Lease],
    write: Write,
    nothing: Answer,
) -> None:
    """A worker that froze in the middle of a transaction must not stop all others."""
    lease = situation(database)
    with database.transaction() as session:
        cancel(session, lease)
        with database.transaction() as other:
            other.execute(text("SET LOCAL lock_timeout = 1000"))
            assert _answer(other, lease, write) == nothing


@pytest.mark.parametrize("write", [renew, begin_publishing, record_start, complete, drain])
def test_a_worker_that_is_just_losing_its_run_writes_nothing(
    database: Database, write: Write
) -> None:
    lease = claimed(database)
    assert race(database, lease, expire, write) == (1, "LeaseLost")
    run = get(database, lease.run_id)
    assert (run.status, run.phase, run.axolotl_yaml) == (RunStatus.QUEUED, None, None)
    assert (run.checkpoint_step, run.lease_expires_at) == (None, None)


def test_finished_work_is_not_taken_back_as_lost(database: Database) -> None:
    for late, nothing in ((expire, 0), (take_back, None)):
        lease = claimed(database)
        assert race(database, lease, complete, late) == (RunStatus.SUCCEEDED, nothing)


def test_a_cancel_that_comes_before_the_end_of_the_training_counts(database: Database) -> None:
    lease = claimed(database)
    assert race(database, lease, cancel, stop) == (RunStatus.RUNNING, RunStatus.CANCELLED)
    lease = claimed(database)
    assert race(database, lease, cancel, renew) == (RunStatus.RUNNING, Wish.CANCEL)


def test_a_cancel_that_comes_after_the_finish_is_told_so(database: Database) -> None:
    lease = claimed(database)
    assert race(database, lease, complete, cancel) == (RunStatus.SUCCEEDED, "IllegalTransition")


def test_a_run_that_is_just_being_claimed_is_paused_by_its_worker(database: Database) -> None:
    run_id = create(database)
    assert race(database, Lease(run_id, 1, ""), claim_next, ask_to_pause)[1] is RunStatus.RUNNING
    assert get(database, run_id).pause_requested_at == SOON


def test_a_run_that_is_just_beginning_to_publish_is_not_paused(database: Database) -> None:
    lease = claimed(database)
    assert race(database, lease, begin_publishing, ask_to_pause) == (None, "IllegalTransition")


# ---- what makes it so


@only_postgresql
def test_what_a_session_has_read_before_does_not_decide(database: Database) -> None:
    run_id = create(database)
    with database.transaction() as session:
        read = session.get_one(Run, run_id)  # kept: the session forgets what nobody holds
        assert read.status is RunStatus.QUEUED
        lease = claim(database)
        assert lease is not None
        assert lifecycle.request_pause(session, run_id, now=NOON).status is RunStatus.RUNNING
    with database.transaction() as session:
        read = session.get_one(Run, run_id)
        assert read.wish is Wish.PAUSE
        with database.transaction() as other:
            cancel(other, lease)
        assert lifecycle.renew(session, lease, now=NOON, ttl=TTL) is Wish.CANCEL
    assert finish(database, lease, STOPPED) is RunStatus.CANCELLED


def test_an_attempt_has_an_end_when_it_has_ended_and_only_then(database: Database) -> None:
    claimed(database)
    for values in ("ended_at = started_at", "\"end\" = 'lost'"):
        change = text(f"UPDATE attempts SET {values}")  # noqa: S608  # our names
        with pytest.raises(IntegrityError), database.engine.begin() as connection:
            connection.execute(change)


def test_a_transaction_on_sqlite_is_the_only_writer_from_its_start(sqlite: Database) -> None:
    with sqlite.transaction() as session:
        session.execute(text("SELECT 1"))
        impatient = create_engine(sqlite.engine.url, connect_args={"timeout": 0})
        with pytest.raises(OperationalError, match="locked"), impatient.begin() as other:
            other.execute(text("DELETE FROM runs"))
        impatient.dispose()


def test_a_reader_on_sqlite_does_not_wait_for_a_writer(sqlite: Database) -> None:
    run_id = create(sqlite)
    with sqlite.transaction() as session:
        lifecycle.request_cancel(session, run_id, now=NOON)
        assert get(sqlite, run_id).status is RunStatus.QUEUED


def test_the_clock_goes_on_while_a_transaction_waits(database: Database) -> None:
    with database.transaction() as session:
        start = now(session)
        assert eventually(lambda: now(session) > start)
