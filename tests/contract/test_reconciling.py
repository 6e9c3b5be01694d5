"""What the reconciler leaves alone, by the database's own clock, on both databases."""

from datetime import timedelta

from finlora_core.db.session import Database, now
from finlora_core.runs import lifecycle, queries
from finlora_core.runs.lifecycle import Lease, Order
from finlora_core.runs.reconcile import reconcile
from finlora_core.runs.status import RunStatus
from finlora_core.settings import Settings
from tests.support import FACTS, ListQueue, make_config


def create(database: Database, *, ago: float = 0) -> str:
    with database.transaction() as session:
        at = now(session) - timedelta(seconds=ago)
        order = Order(name="n")
        return lifecycle.create_run(session, make_config(), order, dataset=FACTS, now=at).id


def claim(database: Database, *, ago: float, seconds: float) -> Lease | None:
    with database.transaction() as session:
        at, ttl = now(session) - timedelta(seconds=ago), timedelta(seconds=seconds)
        return lifecycle.claim_next(session, worker="w", now=at, ttl=ttl)


def test_a_run_is_left_to_a_guard_that_may_still_be_clearing_away(
    database: Database, settings: Settings
) -> None:
    run_id = create(database, ago=1000)
    lease = claim(database, ago=1000, seconds=1000 - settings.lease_grace_seconds / 2)
    assert lease is not None  # it has expired by now; its grace has not
    reconcile(database, ListQueue(), settings)
    with database.reading() as session:
        assert queries.get_any_run(session, run_id).status is RunStatus.RUNNING


def test_a_run_that_workers_were_told_of_just_now_is_not_offered_again(
    database: Database, settings: Settings
) -> None:
    create(database, ago=settings.reoffer_seconds / 2)
    queue = ListQueue()
    reconcile(database, queue, settings)
    assert queue.offered == []
