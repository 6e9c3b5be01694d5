"""Lists, logs and metrics: pages that never skip or repeat, on both databases."""

from datetime import timedelta

import pytest

from finlora_core.adapters import registry
from finlora_core.adapters.manifest import File
from finlora_core.db.models import Adapter, Run
from finlora_core.db.session import Database
from finlora_core.errors import InvalidCursor
from finlora_core.runs import journal, lifecycle, queries
from finlora_core.runs.lifecycle import Order
from finlora_core.runs.outcome import AttemptEnd, End
from finlora_core.runs.reconcile import reconcile
from finlora_core.runs.status import RunStatus
from finlora_core.runs.turns import COUNTED
from finlora_core.settings import Settings
from tests.support import FACTS, NOON, POLICY, ListQueue, make_config

FILES = [File(path="adapter_model.safetensors", size=3, sha256="a" * 64)]


def create(database: Database, *, second: int = 0, name: str = "n", rank: int = 8) -> str:
    with database.transaction() as session:
        at = NOON + timedelta(seconds=second)
        config = make_config(lora_r=rank)
        return lifecycle.create_run(session, config, Order(name=name), dataset=FACTS, now=at).id


def publish(database: Database, *, name: str) -> Adapter:
    create(database, name=name)
    with database.transaction() as session:
        lease = lifecycle.claim_next(session, worker="w", now=NOON, ttl=timedelta(minutes=2))
        assert lease is not None
        lifecycle.finish(session, lease, AttemptEnd(end=End.COMPLETED), now=NOON, policy=POLICY)
        run = queries.get_any_run(session, lease.run_id)
        return registry.add_adapter(session, run, registry.adapter_id(run.id, 1), FILES)


def pages(database: Database, limit: int) -> list[list[str]]:
    seen, cursor = [], None
    while True:
        with database.reading() as session:
            page = queries.list_runs(
                session, "local", status=None, name=None, variant=None, cursor=cursor, limit=limit
            )
        seen.append([run.id for run in page.rows])
        cursor = page.next_cursor
        if cursor is None:
            return seen


@pytest.mark.parametrize("limit", [1, 2, 5, 7, 100])
def test_pages_show_every_run_once_newest_first(database: Database, limit: int) -> None:
    # three of one moment: the id decides between them
    created = [create(database, second=second) for second in (0, 1, 2, 2, 2, 3, 4)]
    seen = [run_id for page in pages(database, limit) for run_id in page]
    assert sorted(seen) == sorted(created)
    assert [seen[0], seen[1], seen[5], seen[6]] == [created[6], created[5], created[1], created[0]]


def test_a_run_that_arrives_meanwhile_does_not_shift_the_pages(database: Database) -> None:
    first, second = create(database, second=0), create(database, second=1)
    with database.reading() as session:
        page = queries.list_runs(
            session, "local", status=None, name=None, variant=None, cursor=None, limit=1
        )
    create(database, second=2)
    with database.reading() as session:
        rest = queries.list_runs(
            session,
            "local",
            status=None,
            name=None,
            variant=None,
            cursor=page.next_cursor,
            limit=9,
        )
    assert [run.id for run in (*page.rows, *rest.rows)] == [second, first]


def test_runs_are_filtered_by_status_name_and_variant(database: Database) -> None:
    a = create(database, name="a", rank=8)
    b = create(database, name="b", rank=4)
    with database.transaction() as session:
        lifecycle.request_cancel(session, b, now=NOON)

    def found(**wanted: str | RunStatus) -> list[str]:
        filters = {"status": None, "name": None, "variant": None, **wanted}
        with database.reading() as session:
            page = queries.list_runs(session, "local", **filters, cursor=None, limit=9)  # type: ignore[arg-type]
        return [run.id for run in page.rows]

    assert found(name="a") == [a]
    assert found(variant="fp16_r4") == [b]
    assert found(status=RunStatus.CANCELLED) == [b]
    assert found(status=RunStatus.QUEUED, name="b") == []


@pytest.mark.parametrize("cursor", ["", "x", "!!!!", "bm90IGEgY3Vyc29y", "fHx8"])
def test_a_made_up_cursor_is_refused(database: Database, cursor: str) -> None:
    with database.reading() as session, pytest.raises(InvalidCursor):
        queries.list_runs(
            session, "local", status=None, name=None, variant=None, cursor=cursor, limit=1
        )


def test_the_queue_position_counts_the_runs_ahead(database: Database) -> None:
    ids = [create(database, second=second) for second in range(3)]
    with database.reading() as session:
        runs = [queries.get_any_run(session, run_id) for run_id in ids]
        assert queries.queue_positions(session.connection(), runs[1:]) == {ids[1]: 1, ids[2]: 2}


def test_a_long_line_is_counted_as_far_as_it_is_said(database: Database) -> None:
    ids = [create(database, second=second) for second in range(3)]
    with database.transaction() as session:
        first = queries.get_any_run(session, ids[0])
        rest = [_waiting_like(first, second) for second in range(3, COUNTED + 3)]
        session.add_all(rest)
    with database.reading() as session:
        places = queries.queue_positions(
            session.connection(), [first, rest[0], rest[-4], *rest[-3:]]
        )
    assert sorted(places.values()) == [0, 3, COUNTED - 1, COUNTED, COUNTED, COUNTED]


def test_a_place_is_the_same_whoever_else_is_asked_about(database: Database) -> None:
    """Runs of two priorities, four at each second; the last one counted is among equals."""
    like = create(database, second=0)
    with database.transaction() as session:
        first = queries.get_any_run(session, like)
        line = [_waiting_like(first, n, second=n // 4, priority=n % 2) for n in range(COUNTED + 5)]
        session.add_all(line)
        session.delete(first)
    line.sort(key=lambda run: (-run.priority, run.queued_at, run.id))
    wanted = {run.id: min(place, COUNTED) for place, run in enumerate(line)}
    pages = [line[:3], line[498:503], line[COUNTED - 2 :], line[-3:]]
    pages += [[run] for run in line[::99]]
    with database.looking() as connection:
        for page in pages:
            places = queries.queue_positions(connection, page)
            assert places == {run.id: wanted[run.id] for run in page}


def test_whoever_is_claimed_meanwhile_has_nobody_ahead(database: Database) -> None:
    ids = [create(database, second=second) for second in range(3)]
    with database.reading() as session:
        runs = [queries.get_any_run(session, run_id) for run_id in ids]
    with database.transaction() as session:
        session.delete(queries.get_any_run(session, ids[0]))
    with database.looking() as connection:
        assert queries.queue_positions(connection, runs) == {ids[0]: 0, ids[1]: 0, ids[2]: 1}
        assert queries.queue_positions(connection, runs[:1]) == {ids[0]: 0}


def _waiting_like(run: Run, number: int, *, second: int | None = None, priority: int = 0) -> Run:
    values = {column.key: getattr(run, column.key) for column in Run.__table__.columns}
    at = NOON + timedelta(seconds=number if second is None else second)
    own = {"id": f"run_{number:05}", "queued_at": at, "priority": priority}
    return Run(**{**values, **own})


def test_a_log_is_read_back_whole_from_any_offset(database: Database) -> None:
    run_id = create(database)
    pieces = ["first line\n", "zweite Zeile: ä\n", "", "third 🙂\n"]
    for piece in pieces:
        with database.transaction() as session:
            journal.append_log(session, run_id, piece)
    whole = "".join(pieces)
    with database.reading() as session:
        for offset in range(len(whole) + 1):
            text, end = journal.read_log(session, run_id, offset=offset, limit=1000)
            assert (text, end) == (whole[offset:], len(whole))
        assert journal.read_log(session, run_id, offset=3, limit=4) == (whole[3:7], 7)
        assert journal.read_log(session, run_id, offset=500, limit=4) == ("", 500)


def test_metrics_are_read_from_a_cursor_on(database: Database) -> None:
    run_id, other = create(database), create(database)
    with database.transaction() as session:
        points = [{"step": n, "loss": 1 / n} for n in (1, 2, 3)]
        journal.append_metrics(session, run_id, 1, points)
        journal.append_metrics(session, other, 1, [{"step": 9, "loss": 0.0}])
    with database.reading() as session:
        first = journal.read_metrics(session, run_id, after=0, limit=2)
        rest = journal.read_metrics(session, run_id, after=first[-1].id, limit=9)
    assert [point.step for point in (*first, *rest)] == [1, 2, 3]
    assert rest[0].values == {"loss": 1 / 3}


def test_a_name_trained_again_is_the_next_version(database: Database) -> None:
    versions = [publish(database, name=name).version for name in ("a", "a", "b", "a")]
    assert versions == [1, 2, 1, 3]


def test_adapters_are_found_by_run(database: Database) -> None:
    first, _ = publish(database, name="a"), publish(database, name="a")
    with database.reading() as session:
        page = registry.list_adapters(
            session,
            "local",
            name=None,
            variant=None,
            base_model=None,
            run_id=first.run_id,
            stage=None,
            cursor=None,
            limit=9,
        )
    assert [adapter.id for adapter in page.rows] == [first.id]


def test_a_run_that_the_broker_missed_is_offered_once_it_is_back(
    database: Database, settings: Settings
) -> None:
    run_id = create(database)
    queue = ListQueue()
    queue.up = False
    reconcile(database, queue, settings)  # the run was created long ago: due at once
    assert queue.offered == []
    queue.up = True
    reconcile(database, queue, settings)
    reconcile(database, queue, settings)
    assert queue.offered == [run_id]


def test_reconciling_takes_a_run_back_from_a_silent_worker(
    database: Database, settings: Settings
) -> None:
    run_id = create(database)
    with database.transaction() as session:  # long ago: the lease has expired since
        lifecycle.claim_next(session, worker="w", now=NOON, ttl=timedelta(minutes=2))
    queue = ListQueue()
    reconcile(database, queue, settings)
    with database.reading() as session:
        assert queries.get_any_run(session, run_id).status is RunStatus.QUEUED
    assert queue.offered == [run_id]
