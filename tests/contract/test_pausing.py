"""Pause, resume, retry, the crash budget and what an ended run refuses, on both databases."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from finlora_core.db.models import RunAttempt
from finlora_core.db.session import Database
from finlora_core.errors import IllegalTransition
from finlora_core.runs import lifecycle
from finlora_core.runs.lifecycle import Lease
from finlora_core.runs.outcome import AttemptEnd, End, Wish
from finlora_core.runs.queries import queue_positions
from finlora_core.runs.status import Phase, RunStatus
from finlora_core.training.diagnose import FailureCode, failure
from tests.contract.test_lifecycle import (
    COMPLETED,
    FAILED,
    SECOND,
    TTL,
    attempts,
    cancel,
    claim,
    claimed,
    create,
    expire,
    finish,
    get,
    pause,
    resume,
)
from tests.support import FACTS, NOON, POLICY

STOPPED = AttemptEnd(end=End.STOPPED)
NCCL = AttemptEnd(end=End.FAILED, failure=failure(FailureCode.NCCL_ERROR))


def renew(
    database: Database, lease: Lease, *, after: int = 1, step: int | None = None
) -> Wish | None:
    with database.transaction() as session:
        at = NOON + after * SECOND
        return lifecycle.renew(session, lease, now=at, ttl=TTL, checkpoint_step=step)


def enter(database: Database, lease: Lease, phase: Phase) -> None:
    with database.transaction() as session:
        lifecycle.enter_phase(session, lease, phase, now=NOON)


def test_a_queued_run_is_paused_at_once_and_not_claimed(database: Database) -> None:
    run_id = create(database)
    assert pause(database, run_id).status is RunStatus.PAUSED
    assert claim(database, after=1) is None


def test_a_running_run_is_asked_to_pause_and_paused_when_it_has_stopped(
    database: Database,
) -> None:
    lease = claimed(database)
    assert pause(database, lease.run_id).status is RunStatus.RUNNING
    assert renew(database, lease, step=7) is Wish.PAUSE
    assert finish(database, lease, STOPPED, after=2) is RunStatus.PAUSED
    run = get(database, lease.run_id)
    assert (run.checkpoint_step, run.pause_requested_at, run.crashes) == (7, None, 0)
    assert claim(database, after=3) is None


def test_a_resumed_run_is_claimed_again_as_the_next_attempt(database: Database) -> None:
    lease = claimed(database)
    pause(database, lease.run_id)
    finish(database, lease, STOPPED)
    assert resume(database, lease.run_id).status is RunStatus.QUEUED
    again = claim(database, after=5)
    assert again is not None
    assert (again.run_id, again.attempt) == (lease.run_id, 2)
    assert attempts(database, lease.run_id) == [(1, End.STOPPED, None), (2, None, None)]


def test_pausing_twice_and_resuming_twice_is_doing_it_once(database: Database) -> None:
    run_id = create(database)
    assert pause(database, run_id).status is pause(database, run_id).status is RunStatus.PAUSED
    first = resume(database, run_id, after=5).queued_at
    assert resume(database, run_id, after=9).queued_at == first


def test_to_cancel_beats_to_pause(database: Database) -> None:
    lease = claimed(database)
    pause(database, lease.run_id)
    cancel(database, lease.run_id)
    assert renew(database, lease) is Wish.CANCEL
    assert finish(database, lease, STOPPED) is RunStatus.CANCELLED


def test_a_paused_run_can_be_cancelled(database: Database) -> None:
    run_id = create(database)
    pause(database, run_id)
    assert cancel(database, run_id).status is RunStatus.CANCELLED


def test_a_lost_worker_does_not_undo_a_wish_to_pause(database: Database) -> None:
    lease = claimed(database)
    pause(database, lease.run_id)
    expire(database, after=500)
    assert get(database, lease.run_id).status is RunStatus.PAUSED


def test_what_cannot_be_paused_says_why(database: Database) -> None:
    lease = claimed(database)
    enter(database, lease, Phase.PUBLISHING)
    with pytest.raises(IllegalTransition, match="already publishing"):
        pause(database, lease.run_id)
    cancel(database, lease.run_id)
    with pytest.raises(IllegalTransition, match="being cancelled"):
        pause(database, lease.run_id)
    finish(database, lease, COMPLETED)
    with pytest.raises(IllegalTransition, match="already succeeded"):
        pause(database, lease.run_id)


def test_a_running_or_ended_run_cannot_be_resumed(database: Database) -> None:
    lease = claimed(database)
    with pytest.raises(IllegalTransition, match="running"):
        resume(database, lease.run_id)
    finish(database, lease, FAILED)
    with pytest.raises(IllegalTransition, match="already failed"):
        resume(database, lease.run_id)


def test_a_retry_is_a_new_run_of_the_same_config_that_knows_its_parent(
    database: Database,
) -> None:
    lease = claimed(database)
    with pytest.raises(IllegalTransition, match="only a failed or cancelled run"):
        retry(database, lease.run_id)
    finish(database, lease, FAILED)
    again = get(database, retry(database, lease.run_id))
    parent = get(database, lease.run_id)
    assert (again.parent_id, again.config, again.name) == (parent.id, parent.config, parent.name)
    assert (again.status, parent.status) == (RunStatus.QUEUED, RunStatus.FAILED)


def retry(database: Database, run_id: str) -> str:
    with database.transaction() as session:
        return lifecycle.retry_run(session, run_id, dataset=FACTS, now=NOON).id


def test_a_failure_that_may_go_away_is_tried_again_later_each_time(database: Database) -> None:
    run_id = create(database)
    for at, due in ((0, 0), (0, 30)):
        lease = claim(database, after=at)
        assert lease is not None
        assert finish(database, lease, NCCL, after=at) is RunStatus.QUEUED
        assert get(database, run_id).not_before == NOON + due * SECOND
    assert claim(database, after=29) is None
    last = claim(database, after=30)
    assert last is not None
    assert finish(database, last, NCCL, after=30) is RunStatus.FAILED
    assert get(database, run_id).error_code == "nccl_error"


def test_a_run_that_is_given_back_after_crashes_does_not_wait(database: Database) -> None:
    lease = claimed(database)
    for after in (1, 2):  # the second crash in a row makes it wait
        finish(database, lease, NCCL, after=after)
        lease = claim_again(database, after=40)
    finish(database, lease, AttemptEnd(end=End.DRAINED), after=41)
    assert claim(database, after=41) is not None


def claim_again(database: Database, *, after: int) -> Lease:
    lease = claim(database, after=after)
    assert lease is not None
    return lease


def test_a_new_checkpoint_starts_the_count_of_crashes_again(database: Database) -> None:
    run_id = create(database)
    for turn in range(5):
        lease = claim(database, after=1000 * turn)
        assert lease is not None
        renew(database, lease, after=1000 * turn, step=turn + 1)
        expire(database, after=1000 * turn + 500)
    assert get(database, run_id).crashes == 1


def test_an_older_checkpoint_is_no_progress(database: Database) -> None:
    run_id = create(database)
    for turn, step in enumerate([9, 9, 3]):
        lease = claim(database, after=1000 * turn)
        assert lease is not None
        renew(database, lease, after=1000 * turn, step=step)
        expire(database, after=1000 * turn + 500)
    run = get(database, run_id)
    assert (run.crashes, run.checkpoint_step) == (3, 9)


def test_a_dead_workers_run_is_taken_back_before_its_lease_is_over(database: Database) -> None:
    lease = claimed(database)
    assert take_back(database, Lease(lease.run_id, 1, "another")) is None
    assert get(database, lease.run_id).status is RunStatus.RUNNING
    assert take_back(database, lease) is RunStatus.QUEUED
    assert take_back(database, lease) is None
    assert get(database, lease.run_id).crashes == 1


def take_back(database: Database, lease: Lease) -> RunStatus | None:
    with database.transaction() as session:
        return lifecycle.take_back(session, lease, now=NOON, policy=POLICY)


def test_leases_that_are_held_are_listed_with_their_workers(database: Database) -> None:
    lease = claimed(database)
    create(database)
    with database.reading() as session:
        assert lifecycle.held_leases(session) == [("w1", lease)]


@pytest.mark.parametrize("end", [COMPLETED, FAILED, STOPPED], ids=["done", "failed", "cancelled"])
@pytest.mark.parametrize("column", ["status", "error_code", "offered_at", "priority"])
def test_the_database_refuses_to_change_a_run_that_has_ended(
    database: Database, end: AttemptEnd, column: str
) -> None:
    lease = claimed(database)
    if end is STOPPED:
        cancel(database, lease.run_id)
    assert finish(database, lease, end).is_terminal
    values = {"status": "'failed'", "error_code": "'x'", "offered_at": "NULL", "priority": "9"}
    change = text(f"UPDATE runs SET {column} = {values[column]}")  # noqa: S608  # our names
    with (
        pytest.raises(IntegrityError, match="what has ended does not change"),
        database.engine.begin() as connection,
    ):
        connection.execute(change)


def test_the_database_refuses_to_change_an_attempt_that_has_ended(database: Database) -> None:
    finish(database, claimed(database), COMPLETED)
    with (
        pytest.raises(IntegrityError, match="what has ended does not change"),
        database.engine.begin() as connection,
    ):
        connection.execute(text("UPDATE attempts SET error_code = 'x'"))


def test_the_database_refuses_a_second_live_attempt(database: Database) -> None:
    lease = claimed(database)
    with pytest.raises(IntegrityError), database.transaction() as session:
        session.add(RunAttempt(run_id=lease.run_id, number=2, worker="w", started_at=NOON))


def test_one_owners_many_runs_do_not_starve_anothers_single_one(database: Database) -> None:
    for n in range(500):
        create(database, after=n, owner="many")
    single = create(database, after=900, owner="single")
    order = []
    for turn in range(4):
        lease = claim(database, after=1000 + turn)
        assert lease is not None
        order.append(lease.run_id)
        finish(database, lease, COMPLETED, after=1000 + turn)
    assert single in order[:2]


def test_the_owner_with_fewer_runs_in_training_goes_first(database: Database) -> None:
    for n in range(6):
        create(database, after=n, owner="a")
    later = [create(database, after=10 + n, owner="b") for n in range(2)]
    taken = [lease.run_id for turn in range(5) if (lease := claim(database, after=20 + turn))]
    assert taken.index(later[0]) == 1
    assert taken.index(later[1]) == 3


def test_owners_who_are_equal_in_all_else_come_by_their_names(database: Database) -> None:
    """So that every worker that looks sees the same line."""
    names = [f"owner-{n * 37 % 50:02}" for n in range(50)]
    runs = {create(database, owner=name): name for name in names}
    taken = [runs[lease.run_id] for _ in names if (lease := claim(database, after=1))]
    assert taken == sorted(names)


def test_priority_decides_among_an_owners_own_runs_only(database: Database) -> None:
    low, high = create(database, owner="a"), create(database, after=1, owner="a", priority=5)
    other = create(database, after=2, owner="b", priority=-5)
    taken = [lease.run_id for turn in range(3) if (lease := claim(database, after=3 + turn))]
    assert taken == [high, other, low]


def test_a_run_that_comes_back_keeps_its_place(database: Database) -> None:
    lease = claimed(database)
    create(database, after=1)
    finish(database, lease, AttemptEnd(end=End.DRAINED), after=2)
    again = claim(database, after=3)
    assert again is not None
    assert again.run_id == lease.run_id


def test_places_in_the_queue_are_the_order_of_claiming(database: Database) -> None:
    ids = [create(database, after=n, owner=owner) for n, owner in enumerate("aaabac")]
    ids.append(create(database, after=9, owner="a", priority=1))
    with database.reading() as session:
        places = queue_positions(session.connection(), [get(database, id) for id in ids])
    taken = [lease.run_id for turn in ids if (lease := claim(database, after=20))]
    assert [places[id] for id in taken] == list(range(len(ids)))


def test_a_place_counts_what_its_owner_has_in_training(database: Database) -> None:
    ids = [create(database, after=n, owner=owner) for n, owner in enumerate("aaaabbc")]
    training = [claim(database, after=20 + turn) for turn in range(4)]  # a, b, c and a again
    left = [id for id in ids if id not in [lease.run_id for lease in training if lease]]
    with database.reading() as session:
        places = queue_positions(session.connection(), [get(database, id) for id in left])
    taken = [lease.run_id for turn in left if (lease := claim(database, after=30))]
    assert [places[id] for id in taken] == list(range(len(left)))


def test_a_run_that_waits_after_a_crash_does_not_hold_up_the_next(database: Database) -> None:
    first, second = create(database), create(database, after=1)
    for turn in range(2):  # the second crash makes it wait
        lease = claim(database, after=1000 * turn + 2)
        assert lease is not None
        assert lease.run_id == first
        expire(database, after=1000 * turn + 500)
    waiting = claim(database, after=1501)
    assert waiting is not None
    assert waiting.run_id == second
    again = claim(database, after=1530)
    assert again is not None
    assert again.run_id == first


def test_a_clock_that_jumps_back_takes_nothing_away(database: Database) -> None:
    lease = claimed(database)
    assert expire(database, after=-3600) == []
    renew(database, lease, after=-3600)
    assert finish(database, lease, COMPLETED, after=-3599) is RunStatus.SUCCEEDED


def test_a_run_of_a_time_before_its_queueing_is_not_due(database: Database) -> None:
    create(database)
    assert claim(database, after=-1) is None
