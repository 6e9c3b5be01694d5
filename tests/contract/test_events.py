"""What is told of a run: one event a move, which nothing changes afterwards, on both databases."""

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import delete, text, update
from sqlalchemy.exc import DBAPIError

from finlora_core.adapters import registry
from finlora_core.adapters.manifest import File
from finlora_core.db.models import Event, Run
from finlora_core.db.session import Database
from finlora_core.errors import LeaseLost
from finlora_core.runs import lifecycle, queries
from finlora_core.runs.event_type import EventType, Level
from finlora_core.runs.events import MESSAGES, newest_events, read_events, tell_published
from finlora_core.runs.kind import RunKind
from finlora_core.runs.lifecycle import Lease
from finlora_core.runs.outcome import AttemptEnd, End
from finlora_core.training.diagnose import FailureCode, failure
from finlora_core.training.hints import hint_of
from tests.contract.test_lifecycle import (
    COMPLETED,
    FAILED,
    SECOND,
    TTL,
    cancel,
    claim,
    claimed,
    create,
    expire,
    finish,
    pause,
    resume,
)
from tests.support import FACTS, NOON

FILES = [File(path="adapter_model.safetensors", size=3, sha256="a" * 64)]


def events(database: Database, run_id: str) -> Sequence[Event]:
    with database.reading() as session:
        return read_events(session, run_id, after=0, limit=100)


def types(database: Database, run_id: str) -> list[str]:
    return [event.type for event in events(database, run_id)]


def renew(database: Database, lease: Lease, **given: Any) -> None:
    with database.transaction() as session:
        lifecycle.renew(session, lease, now=NOON + SECOND, ttl=TTL, **given)


def test_the_newest_events_come_first_and_page_by_page(database: Database) -> None:
    lease = claimed(database)
    for step in (40, 80):
        renew(database, lease, checkpoint_step=step)
    with database.reading() as session:
        newest = newest_events(session, lease.run_id, before=None, limit=3)
        older = newest_events(session, lease.run_id, before=newest[-1].id, limit=3)
        saved = newest_events(
            session, lease.run_id, before=None, limit=1, type=EventType.CHECKPOINT_SAVED
        )
    assert [event.type for event in newest] == ["checkpoint_saved", "checkpoint_saved", "started"]
    assert [event.type for event in older] == ["created"]
    assert [event.data["step"] for event in saved] == [80]


def test_a_run_tells_its_life_in_order(database: Database) -> None:
    lease = claimed(database)
    with database.transaction() as session:
        lifecycle.record_start(session, lease, yaml="", resumed_from=20, now=NOON)
    renew(database, lease, checkpoint_step=40)
    finish(database, lease, COMPLETED)
    told = events(database, lease.run_id)
    assert [(event.type, event.level, event.message) for event in told] == [
        ("created", "info", "The run is queued."),
        ("started", "info", "Attempt 1 has started on w1."),
        ("resumed_from_checkpoint", "info", "Attempt 1 goes on from step 20."),
        ("checkpoint_saved", "info", "The checkpoint of step 40 is saved."),
        ("succeeded", "info", "The run has succeeded."),
    ]
    assert told[1].data == {"attempt": 1, "worker": "w1"}
    assert {event.owner for event in told} == {"local"}
    assert [event.at for event in told] == [NOON, NOON, NOON, NOON + SECOND, NOON + SECOND]


def test_a_repeated_wish_and_a_repeated_checkpoint_are_told_once(database: Database) -> None:
    lease = claimed(database)
    for _ in range(2):
        renew(database, lease, checkpoint_step=40)
        pause(database, lease.run_id)
    for _ in range(2):
        cancel(database, lease.run_id)
    finish(database, lease, AttemptEnd(end=End.STOPPED))
    cancel(database, lease.run_id)
    assert types(database, lease.run_id) == [
        *("created", "started", "checkpoint_saved", "pause_requested", "cancel_requested"),
        "cancelled",
    ]


def test_a_waiting_run_is_paused_resumed_and_cancelled_at_once(database: Database) -> None:
    run_id = create(database)
    for _ in range(2):
        pause(database, run_id)
    for _ in range(2):
        resume(database, run_id)
    for _ in range(2):
        cancel(database, run_id)
    assert types(database, run_id) == ["created", "paused", "resumed", "cancelled"]


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (AttemptEnd(end=End.DRAINED), "worker_drained"),
        (AttemptEnd(end=End.STOPPED), "stopped"),
    ],
)
def test_a_run_that_is_queued_again_says_why(
    database: Database, end: AttemptEnd, reason: str
) -> None:
    lease = claimed(database)
    finish(database, lease, end)
    last = events(database, lease.run_id)[-1]
    assert (last.type, last.level) == (EventType.REQUEUED, Level.WARN)
    assert last.data == {"attempt": 1, "reason": reason}


def test_a_run_taken_from_a_lost_worker_says_so(database: Database) -> None:
    lease = claimed(database)
    expire(database, after=500)
    assert events(database, lease.run_id)[-1].data == {"attempt": 1, "reason": "worker_lost"}


def test_a_failed_run_tells_its_code_as_an_error(database: Database) -> None:
    lease = claimed(database)
    finish(database, lease, FAILED)
    last = events(database, lease.run_id)[-1]
    assert (last.type, last.level) == (EventType.FAILED, Level.ERROR)
    hint = hint_of(failure(FailureCode.TRAINING_ERROR, detail="look"), RunKind.TRAINING)
    assert last.message == f"The run has failed (training_error). {hint}"
    assert last.data == {"attempt": 1, "code": "training_error", "hint": hint}


def test_dropped_rows_are_a_warning_told_once_an_attempt(database: Database) -> None:
    lease = claimed(database)
    for dropped in (0, 3, 3):
        renew(database, lease, progress={"step": 1, "dropped_rows": dropped})
    warnings = [event for event in events(database, lease.run_id) if event.level is Level.WARN]
    assert [event.data for event in warnings] == [{"attempt": 1, "rows": 3}]


def test_what_a_stale_worker_does_is_not_told(database: Database) -> None:
    lease = claimed(database)
    expire(database, after=500)
    before = types(database, lease.run_id)
    with pytest.raises(LeaseLost):
        renew(database, lease, checkpoint_step=40)
    assert types(database, lease.run_id) == before


def test_a_move_that_is_rolled_back_is_not_told(database: Database) -> None:
    run_id = create(database)

    def cancel_in_vain() -> None:
        with database.transaction() as session:
            lifecycle.request_cancel(session, run_id, now=NOON)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cancel_in_vain()
    assert types(database, run_id) == ["created"]


def test_a_retry_tells_which_run_it_tries_again(database: Database) -> None:
    lease = claimed(database)
    finish(database, lease, FAILED)
    with database.transaction() as session:
        again = lifecycle.retry_run(session, lease.run_id, dataset=FACTS, now=NOON).id
    assert events(database, again)[0].data == {"parent_id": lease.run_id}


def test_the_published_adapter_is_told_with_its_version(database: Database) -> None:
    lease = claimed(database)
    finish(database, lease, COMPLETED)
    with database.transaction() as session:
        run = queries.get_any_run(session, lease.run_id)
        tell_published(session, run, registry.add_adapter(session, run, "adp_1", FILES))
    assert events(database, lease.run_id)[-1].data == {
        "adapter_id": "adp_1",
        "name": "n",
        "version": 1,
    }


def test_every_type_has_a_message() -> None:
    assert set(MESSAGES) == set(EventType)


def test_events_are_read_from_a_cursor_on(database: Database) -> None:
    run_id, other = create(database), create(database)
    pause(database, other)
    pause(database, run_id)
    resume(database, run_id)
    with database.reading() as session:
        first = read_events(session, run_id, after=0, limit=2)
        rest = read_events(session, run_id, after=first[-1].id, limit=9)
    assert [event.type for event in (*first, *rest)] == ["created", "paused", "resumed"]


def test_the_database_refuses_to_change_or_delete_an_event(database: Database) -> None:
    run_id = create(database)
    for statement in (update(Event).values(message="another"), delete(Event)):
        with pytest.raises(DBAPIError, match="does not change"), database.transaction() as session:
            session.execute(statement)
    assert types(database, run_id) == ["created"]


def test_events_go_with_their_run(database: Database) -> None:
    gone, stays = create(database), create(database)
    with database.transaction() as session:
        session.execute(delete(Run).where(Run.id == gone))
    with database.reading() as session:
        assert session.execute(text("SELECT DISTINCT run_id FROM events")).scalars().all() == [
            stays
        ]


def test_attempts_are_numbered_in_what_is_told(database: Database) -> None:
    lease = claimed(database)
    finish(database, lease, AttemptEnd(end=End.DRAINED))
    claim(database, worker="w2", after=60)
    assert events(database, lease.run_id)[-1].message == "Attempt 2 has started on w2."
