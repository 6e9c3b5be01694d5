"""Quotas in both databases: what owners have, and that no more is made than they may have."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import event, func, select

from finlora_core import quotas
from finlora_core.access import keys
from finlora_core.access.keys import Caller
from finlora_core.access.quota import Quota
from finlora_core.access.scopes import ALL
from finlora_core.datasets import registry, uploads
from finlora_core.datasets.intake import Received
from finlora_core.db.models import Dataset, Run, RunAttempt
from finlora_core.db.session import Database
from finlora_core.errors import FinLoRAError, QuotaExceeded, StorageQuotaExceeded
from finlora_core.quotas import Span, seconds_until_below, use_of
from finlora_core.runs import lifecycle, posting
from finlora_core.runs.config import RunRequest
from finlora_core.runs.outcome import End
from tests.support import BASE_MODEL, FACTS, FORM, NOON

HOUR = timedelta(hours=1)
DATA = posting.Data(dataset=FACTS, validation=None)
REQUEST = RunRequest.model_validate({"base_model": BASE_MODEL, "dataset_path": "train.jsonl"})


@pytest.fixture
def ann(database: Database) -> Caller:
    with database.transaction() as session:
        key, _ = keys.create(session, b"p" * 32, name="k", owner="ann", scopes=ALL, now=NOON)
    return Caller("ann", key.id, ALL)


def limited(caller: Caller, quota: Quota) -> Caller:
    return replace(caller, quota=quota)


def post(database: Database, caller: Caller) -> Run:
    with database.transaction() as session:
        return posting.create_run(session, REQUEST, caller, DATA, now=NOON)


def store(database: Database, caller: Caller, size: int, number: int = 0) -> None:
    id = f"dataset_{number:020x}"
    with database.transaction() as session:
        quotas.require_room_for_bytes(session, caller, size, now=NOON)
        registry.add_dataset(
            session,
            Received(id, FORM, size, FACTS),
            owner=caller.owner,
            name="x",
            lifetime=None,
            now=NOON,
        )


def trained(database: Database, caller: Caller, *, ended: timedelta, hours: float) -> None:
    """One attempt of one run, which ended so long ago."""
    run = post(database, replace(caller, quota=Quota()))
    with database.transaction() as session:
        stored = session.get_one(Run, run.id)
        stored.gpus = 2
        lifecycle.request_cancel(session, run.id, now=NOON)
        end = NOON - ended
        session.add(
            RunAttempt(
                run_id=run.id,
                number=1,
                worker="w",
                started_at=end - timedelta(hours=hours / 2),
                ended_at=end,
                end=End.COMPLETED,
            )
        )


def at_once(count: int, work: Callable[[int], object]) -> int:
    """How many of so many were refused."""

    def is_refused(number: int) -> bool:
        try:
            work(number)
        except FinLoRAError:
            return True
        return False

    with ThreadPoolExecutor(16) as pool:
        return sum(pool.map(is_refused, range(count)))


def test_of_50_posts_at_once_a_quota_of_10_lets_exactly_10_in(
    database: Database, ann: Caller
) -> None:
    few = limited(ann, Quota(max_queued_runs=10))
    assert at_once(50, lambda _: post(database, few)) == 40
    with database.reading() as session:
        assert session.scalar(select(func.count()).select_from(Run)) == 10


def test_of_uploads_at_once_none_goes_past_the_quota(database: Database, ann: Caller) -> None:
    few = limited(ann, Quota(max_stored_bytes=100))
    assert at_once(20, partial(store, database, few, 30)) == 17
    with database.reading() as session:
        assert session.scalar(select(func.sum(Dataset.bytes))) == 90


def test_a_run_that_has_ended_or_is_anothers_counts_no_more(
    database: Database, ann: Caller
) -> None:
    one = limited(ann, Quota(max_queued_runs=1))
    post(database, Caller("ben", "k", ALL))
    run = post(database, one)
    with pytest.raises(QuotaExceeded):
        post(database, one)
    with database.transaction() as session:
        lifecycle.request_pause(session, run.id, now=NOON)
    with pytest.raises(QuotaExceeded):  # or pausing and resuming would get past it
        post(database, one)
    with database.transaction() as session:
        lifecycle.request_cancel(session, run.id, now=NOON)
    post(database, one)


def test_all_that_an_owner_has_counts_whichever_key_it_came_with(
    database: Database, ann: Caller
) -> None:
    post(database, ann)
    with pytest.raises(QuotaExceeded):
        post(database, Caller("ann", "another", ALL, Quota(max_queued_runs=1)))


def test_announced_uploads_count_until_they_are_given_up(database: Database, ann: Caller) -> None:
    few = limited(ann, Quota(max_stored_bytes=100))
    with database.transaction() as session:
        upload = uploads.begin_upload(session, "ann", "x", 60, lifetime=None, now=NOON)
    with pytest.raises(StorageQuotaExceeded):
        store(database, few, 60)
    with database.reading() as session:
        later = NOON + uploads.LIFETIME
        assert quotas.room_for_bytes(session, few, now=NOON) == 40
        assert quotas.room_for_bytes(session, few, now=later) == 100
    with database.transaction() as session:
        uploads.cancel_upload(session, "ann", upload.id, now=NOON)
    store(database, few, 60)


def test_gpu_hours_are_those_of_the_last_day_times_gpus(database: Database, ann: Caller) -> None:
    trained(database, ann, ended=2 * HOUR, hours=3)
    trained(database, ann, ended=23 * HOUR, hours=6)  # 1 of its 3 hours, with 2 GPUs, is of it
    trained(database, ann, ended=25 * HOUR, hours=100)
    trained(database, replace(ann, owner="ben"), ended=2 * HOUR, hours=100)
    with database.reading() as session:
        assert use_of(session, "ann", now=NOON).gpu_hours == pytest.approx(5)
    post(database, limited(ann, Quota(gpu_hours_per_day=5.1)))
    with pytest.raises(QuotaExceeded) as refused:
        post(database, limited(ann, Quota(gpu_hours_per_day=4)))
    assert refused.value.retry_after == 1800  # 1 of those 2 old GPU-hours has left the day then


def test_a_training_that_goes_on_counts_until_now(database: Database, ann: Caller) -> None:
    post(database, ann)
    with database.transaction() as session:
        assert lifecycle.claim_next(session, worker="w", now=NOON, ttl=HOUR)
    with database.reading() as session:
        use = use_of(session, "ann", now=NOON + HOUR / 2)
    assert use.queued_runs == 0
    assert use.gpu_hours == pytest.approx(0.5)


def test_a_key_without_quotas_costs_no_query(database: Database, ann: Caller) -> None:
    statements: list[str] = []

    def note(*arguments: object) -> None:
        statements.append(str(arguments[2]))

    event.listen(database.engine, "before_cursor_execute", note)
    post(database, ann)
    few = len(statements)
    post(database, limited(ann, Quota(max_queued_runs=5)))
    event.remove(database.engine, "before_cursor_execute", note)
    assert len(statements) - few == few + 2  # the lock and the count
    assert not any("count(" in statement for statement in statements[:few])


@pytest.mark.parametrize(
    ("spans", "hours", "seconds"),
    [
        ([(-2, 0, 1)], 1, 23 * 3600),
        ([(-2, 0, 1)], 0, 24 * 3600),
        ([(-30, -20, 1)], 2, 2 * 3600),
        ([(-30, -23, 2), (-24, -22, 1)], 1, 3600),
        ([(-24, -22, 2), (-23, -22, 2)], 2, 5400),
    ],
)
def test_when_hours_come_free(
    spans: list[tuple[float, float, int]], hours: float, seconds: int
) -> None:
    found = [Span(NOON + a * HOUR, NOON + b * HOUR, gpus) for a, b, gpus in spans]
    assert seconds_until_below(found, hours, NOON) == seconds
