"""The protocol's guarded statements, on both databases."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from finlora_core.db.models import Adapter, Run
from finlora_core.db.session import Database, now
from finlora_core.errors import IllegalTransition, LeaseLost, NotFound
from finlora_core.runs import lifecycle, queries
from finlora_core.runs.events import newest_events
from finlora_core.runs.kind import RunKind
from finlora_core.runs.lifecycle import Lease, Order
from finlora_core.runs.outcome import AttemptEnd, End, Wish
from finlora_core.runs.status import Phase, RunStatus
from finlora_core.training.diagnose import FailureCode, failure
from tests.support import FACTS, NOON, POLICY, make_config

TTL = timedelta(seconds=120)
GRACE = timedelta(seconds=15)
SECOND = timedelta(seconds=1)
COMPLETED = AttemptEnd(end=End.COMPLETED)
FAILED = AttemptEnd(end=End.FAILED, failure=failure(FailureCode.TRAINING_ERROR, detail="look"))


def create(database: Database, *, after: int = 0, **order: Any) -> str:
    """A queued run, `after` seconds past noon."""
    with database.transaction() as session:
        at = NOON + after * SECOND
        wanted = Order(name="n", **order)
        return lifecycle.create_run(session, make_config(), wanted, dataset=FACTS, now=at).id


def claim(database: Database, *, worker: str = "w1", after: int = 0) -> Lease | None:
    with database.transaction() as session:
        return lifecycle.claim_next(session, worker=worker, now=NOON + after * SECOND, ttl=TTL)


def claimed(database: Database) -> Lease:
    create(database)
    lease = claim(database)
    assert lease is not None
    return lease


def get(database: Database, run_id: str) -> Run:
    with database.reading() as session:
        return queries.get_any_run(session, run_id)


def finish(database: Database, lease: Lease, end: AttemptEnd, *, after: int = 1) -> RunStatus:
    with database.transaction() as session:
        at = NOON + after * SECOND
        return lifecycle.finish(session, lease, end, now=at, policy=POLICY)


def cancel(database: Database, run_id: str, *, after: int = 0) -> Run:
    with database.transaction() as session:
        return lifecycle.request_cancel(session, run_id, now=NOON + after * SECOND)


def pause(database: Database, run_id: str, *, after: int = 0) -> Run:
    with database.transaction() as session:
        return lifecycle.request_pause(session, run_id, now=NOON + after * SECOND)


def resume(database: Database, run_id: str, *, after: int = 5) -> Run:
    with database.transaction() as session:
        return lifecycle.resume_run(session, run_id, now=NOON + after * SECOND)


def expire(database: Database, *, after: int) -> list[str]:
    with database.transaction() as session:
        at = NOON + after * SECOND
        return list(lifecycle.expire_leases(session, now=at, grace=GRACE, policy=POLICY))


def attempts(database: Database, run_id: str) -> list[tuple[int, str | None, str | None]]:
    with database.reading() as session:
        rows = queries.list_attempts(session, run_id)
        return [(row.number, row.end, row.error_code) for row in rows]


def test_a_run_is_claimed_once_however_often_the_message_is_delivered(database: Database) -> None:
    run_id = create(database)
    first, second = claim(database, worker="a"), claim(database, worker="b")
    assert first == Lease(run_id, 1, first.token if first else "")
    assert second is None
    run = get(database, run_id)
    assert (run.status, run.phase, run.lease_owner) == (RunStatus.RUNNING, Phase.PREPARING, "a")


def test_many_workers_at_once_claim_each_run_once(database: Database) -> None:
    expected = {create(database, after=n) for n in range(12)}
    with ThreadPoolExecutor(6) as pool:
        leases = list(pool.map(lambda n: claim(database, worker=f"w{n}", after=60), range(20)))
    taken = [lease.run_id for lease in leases if lease is not None]
    # PostgreSQL skips rows that somebody is just taking, so one pass may leave some behind
    while (lease := claim(database, after=61)) is not None:
        taken.append(lease.run_id)
    assert len(taken) == len(set(taken)) == 12
    assert set(taken) == expected


def test_the_run_that_has_waited_longest_goes_first(database: Database) -> None:
    late, early = create(database, after=2), create(database, after=1)
    leases = [claim(database, after=5), claim(database, after=5)]
    assert [lease.run_id for lease in leases if lease] == [early, late]


def test_renewing_moves_the_lease_on_and_records_progress(database: Database) -> None:
    lease = claimed(database)
    with database.transaction() as session:
        at = NOON + 100 * SECOND
        wish = lifecycle.renew(session, lease, now=at, ttl=TTL, progress={"step": 3})
    run = get(database, lease.run_id)
    assert wish is None
    assert run.lease_expires_at == NOON + 220 * SECOND
    assert run.progress == {"step": 3}
    _renew(database, lease, 110)  # a beat that has nothing new to say
    assert get(database, lease.run_id).progress == {"step": 3}


def test_renewing_tells_the_worker_of_a_wish_to_cancel(database: Database) -> None:
    lease = claimed(database)
    cancel(database, lease.run_id)
    with database.transaction() as session:
        assert lifecycle.renew(session, lease, now=NOON, ttl=TTL) is Wish.CANCEL


def _renew(database: Database, lease: Lease, after: int) -> object:
    with database.transaction() as session:
        return lifecycle.renew(session, lease, now=NOON + after * SECOND, ttl=TTL)


def _enter(database: Database, lease: Lease, after: int) -> object:
    with database.transaction() as session:
        at = NOON + after * SECOND
        lifecycle.enter_phase(session, lease, Phase.TRAINING, now=at)
    return None


def _finish(database: Database, lease: Lease, after: int) -> object:
    return finish(database, lease, COMPLETED, after=after)


WRITES: list[Callable[[Database, Lease, int], object]] = [_renew, _enter, _finish]


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize(
    ("stolen", "after"),
    [
        ({"token": "another"}, 1),
        ({"attempt": 2}, 1),
        ({"run_id": "run_another"}, 1),
        ({}, 120),  # the very moment at which it expires
    ],
    ids=["wrong token", "wrong attempt", "wrong run", "expired"],
)
def test_a_worker_without_a_valid_lease_writes_nothing(
    database: Database,
    write: Callable[[Database, Lease, int], object],
    stolen: dict[str, Any],
    after: int,
) -> None:
    lease = claimed(database)
    stale = Lease(**{**lease.__dict__, **stolen})
    with pytest.raises(LeaseLost):
        write(database, stale, after)
    run = get(database, lease.run_id)
    assert (run.status, run.phase) == (RunStatus.RUNNING, Phase.PREPARING)
    assert run.lease_expires_at == NOON + TTL


def test_a_finished_run_has_let_go_of_its_lease(database: Database) -> None:
    lease = claimed(database)
    assert finish(database, lease, COMPLETED) is RunStatus.SUCCEEDED
    run = get(database, lease.run_id)
    assert run.finished_at == NOON + SECOND
    assert (run.lease_owner, run.lease_token, run.lease_expires_at) == (None, None, None)


def test_a_run_cannot_be_finished_twice(database: Database) -> None:
    lease = claimed(database)
    finish(database, lease, COMPLETED)
    with pytest.raises(LeaseLost):
        finish(database, lease, FAILED)
    assert get(database, lease.run_id).status is RunStatus.SUCCEEDED


def test_a_failed_run_says_why(database: Database) -> None:
    lease = claimed(database)
    assert finish(database, lease, FAILED) is RunStatus.FAILED
    run = get(database, lease.run_id)
    assert run.error_code == "training_error"
    assert (run.error_hint or "").endswith(" (look)")


@pytest.mark.parametrize("kind", [RunKind.EVALUATION, RunKind.MERGE])
def test_a_run_without_checkpoints_that_lost_its_workers_is_not_to_be_retried(
    database: Database, kind: RunKind
) -> None:
    id = create(database)
    with database.transaction() as session:
        session.get_one(Run, id).kind = kind
    for crash in range(POLICY.max_crashes):
        assert claim(database, after=crash * 1000)
        assert expire(database, after=crash * 1000 + 500) == [id]
    run = get(database, id)
    assert (run.status, run.error_code) == (RunStatus.FAILED, "worker_lost")
    assert f"during the {kind}" in (run.error_hint or "")
    with database.reading() as session:
        (told,) = newest_events(session, id, before=None, limit=1)
    assert told.data["hint"] == run.error_hint


def test_a_drained_run_waits_again_without_losing_a_try(database: Database) -> None:
    lease = claimed(database)
    assert finish(database, lease, AttemptEnd(end=End.DRAINED)) is RunStatus.QUEUED
    run = get(database, lease.run_id)
    assert (run.crashes, run.offered_at, run.finished_at) == (0, None, None)
    again = claim(database, after=2)
    assert again is not None
    assert again.attempt == 2


def test_a_queued_run_is_cancelled_at_once(database: Database) -> None:
    run = cancel(database, create(database))
    assert run.status is RunStatus.CANCELLED
    assert claim(database) is None


def test_a_running_run_is_asked_to_stop_and_cancelled_when_it_has(database: Database) -> None:
    lease = claimed(database)
    assert cancel(database, lease.run_id).status is RunStatus.RUNNING
    assert finish(database, lease, AttemptEnd(end=End.STOPPED)) is RunStatus.CANCELLED


def test_cancelling_twice_is_cancelling_once(database: Database) -> None:
    run_id = create(database)
    first, second = cancel(database, run_id), cancel(database, run_id)
    assert first.finished_at == second.finished_at


@pytest.mark.parametrize("wish", [cancel, pause])
def test_a_wish_is_as_old_as_the_first_time_it_was_said(
    database: Database, wish: Callable[..., Run]
) -> None:
    lease = claimed(database)
    first, again = (wish(database, lease.run_id, after=after) for after in (5, 9))
    assert first.cancel_requested_at == again.cancel_requested_at
    assert first.pause_requested_at == again.pause_requested_at


def test_an_ended_run_cannot_be_cancelled(database: Database) -> None:
    lease = claimed(database)
    finish(database, lease, COMPLETED)
    with pytest.raises(IllegalTransition, match="already succeeded"):
        cancel(database, lease.run_id)


def test_cancelling_an_unknown_run_names_it(database: Database) -> None:
    with pytest.raises(NotFound, match="run_nope"):
        cancel(database, "run_nope")


def test_a_run_comes_back_from_a_silent_worker(database: Database) -> None:
    lease = claimed(database)
    assert expire(database, after=120) == []  # its guard may still be at work
    assert expire(database, after=134) == []
    assert expire(database, after=135) == [lease.run_id]
    run = get(database, lease.run_id)
    assert (run.status, run.crashes, run.offered_at) == (RunStatus.QUEUED, 1, None)
    assert attempts(database, lease.run_id) == [(1, End.LOST, "worker_lost")]


def test_a_run_that_keeps_losing_its_worker_fails(database: Database) -> None:
    run_id = create(database)
    for crash in range(3):
        assert claim(database, after=1000 * crash) is not None
        expire(database, after=1000 * crash + 500)
    run = get(database, run_id)
    assert (run.status, run.error_code, run.crashes) == (RunStatus.FAILED, "worker_lost", 3)


def test_a_cancelled_run_whose_worker_vanished_is_cancelled(database: Database) -> None:
    lease = claimed(database)
    cancel(database, lease.run_id)
    expire(database, after=500)
    assert get(database, lease.run_id).status is RunStatus.CANCELLED


def test_a_run_is_offered_again_only_when_it_has_waited(database: Database) -> None:
    run_id = create(database)

    def unoffered(before: int) -> list[str]:
        with database.reading() as session:
            return list(lifecycle.unoffered(session, now=NOON, before=NOON + before * SECOND))

    assert unoffered(-1) == []
    assert unoffered(0) == [run_id]
    with database.transaction() as session:
        lifecycle.mark_offered(session, [run_id], now=NOON + 60 * SECOND)
    assert unoffered(59) == []
    with database.transaction() as session:
        lifecycle.mark_unoffered(session, run_id)
    assert unoffered(-1) == [run_id]


@pytest.mark.parametrize(
    "values",
    [
        {"status": "succeeded"},
        {"finished_at": NOON},
        {"status": "running"},
        {"lease_token": "t"},
        {"status": "queued", "lease_expires_at": NOON},
        {"pause_requested_at": NOON},
        {"status": "lost"},
    ],
)
def test_the_database_refuses_a_row_that_contradicts_itself(
    database: Database, values: dict[str, Any]
) -> None:
    run_id = create(database)
    assignments = ", ".join(f"{name} = :{name}" for name in values)
    statement = text(f"UPDATE runs SET {assignments} WHERE id = :id")  # noqa: S608  # our names
    with pytest.raises(IntegrityError), database.engine.begin() as connection:
        connection.execute(statement, {**values, "id": run_id})


def test_the_clock_is_the_databases_however_wrong_the_workers_is(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Wrong":
            return cls(1999, 1, 1, tzinfo=tz)

    monkeypatch.setattr("finlora_core.db.session.datetime", Wrong)
    with database.transaction() as session:
        years = {"postgresql": datetime.now(UTC).year, "sqlite": 1999}
        assert now(session).year == years[database.engine.dialect.name]


def test_times_are_utc_whatever_zone_the_database_speaks_in(database: Database) -> None:
    run_id = create(database)
    with database.reading() as session:
        if database.engine.dialect.name == "postgresql":
            session.execute(text("SET TIME ZONE 'Asia/Kolkata'"))
        created_at = queries.get_any_run(session, run_id).created_at
    assert created_at.isoformat() == "2026-01-01T12:00:00+00:00"


def test_two_runs_of_one_name_cannot_become_the_same_version(database: Database) -> None:
    """The one that comes second is refused, and tried again as the next version."""
    for turn in range(2):
        lease = claimed(database)
        finish(database, lease, COMPLETED)
        with database.transaction() as session:
            run = queries.get_any_run(session, lease.run_id)
            session.add(
                Adapter(
                    id=lease.run_id, owner="o", run_id=run.id, name="n", variant="v", version=1,
                    base_model="b", sha256="s", files=[], created_at=NOON, verified_at=NOON,
                )
            )  # fmt: skip
            if turn == 1:
                with pytest.raises(IntegrityError):
                    session.flush()
                session.rollback()
