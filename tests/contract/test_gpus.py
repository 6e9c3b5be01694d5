"""Runs on several GPUs: who may claim them, and in which order."""

from datetime import timedelta

import pytest

from finlora_core.db.session import Database
from finlora_core.runs import lifecycle, queries, workers
from finlora_core.runs.lifecycle import ONE_GPU, Gpus, Order
from tests.support import FACTS, NOON, make_config

TTL = timedelta(minutes=2)
DEATH = NOON - timedelta(minutes=10)


@pytest.fixture
def line(database: Database) -> tuple[str, str]:
    """A run on four GPUs, and after it one on a single GPU."""

    def create(gpus: int, after: int) -> str:
        with database.transaction() as session:
            at, order = NOON + timedelta(seconds=after), Order(name=f"on_{gpus}")
            config = make_config(gpus=gpus)
            return lifecycle.create_run(session, config, order, dataset=FACTS, now=at).id

    return create(4, after=0), create(1, after=1)


def claim(database: Database, gpus: Gpus) -> str | None:
    with database.transaction() as session:
        at = NOON + timedelta(seconds=9)
        lease = lifecycle.claim_next(session, worker="w", now=at, ttl=TTL, gpus=gpus)
        return lease.run_id if lease else None


def test_a_run_goes_to_a_worker_with_as_many_gpus_as_it_asks_for(
    database: Database, line: tuple[str, str]
) -> None:
    large, small = line
    assert claim(database, ONE_GPU) == small
    assert claim(database, Gpus(seen=2, free=2)) is None
    assert claim(database, Gpus(seen=4, free=4)) == large


def test_nobody_passes_a_run_that_waits_for_gpus_to_become_free(
    database: Database, line: tuple[str, str]
) -> None:
    large, small = line
    assert claim(database, Gpus(seen=4, free=3)) is None
    assert claim(database, Gpus(seen=4, free=4)) == large
    assert claim(database, Gpus(seen=4, free=1)) == small


@pytest.mark.parametrize(
    ("up", "said"),
    [
        ([], "a worker with 4 GPUs; the largest that is up has 0"),
        ([1, 2], "a worker with 4 GPUs; the largest that is up has 2"),
        ([1, 8], None),
    ],
)
def test_a_run_says_which_worker_it_waits_for(
    database: Database, line: tuple[str, str], up: list[int], said: str | None
) -> None:
    with database.transaction() as session:
        for gpus in up:
            workers.check_in(session, f"w{gpus}", "host", gpus=gpus, now=NOON, since=DEATH)
    with database.reading() as session:
        runs = [queries.get_any_run(session, id) for id in line]
        lacking = queries.lacking_gpus(session.connection(), runs)
    assert lacking == ({line[0]: said} if said else {})
