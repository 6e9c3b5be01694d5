"""Stored versions are read again from time to time; a damaged one is marked. Both databases."""

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from finlora_core.adapters import registry, scrub
from finlora_core.adapters.imports import import_tree
from finlora_core.adapters.manifest import WEIGHTS
from finlora_core.adapters.scrub import ABANDONED, Scrubber, record, take
from finlora_core.adapters.store import AdapterStore
from finlora_core.adapters.verify import Fault, Problem
from finlora_core.db.models import Adapter
from finlora_core.db.session import Database
from finlora_core.errors import AdapterDamaged
from finlora_core.settings import Settings
from tests.bad_adapters import good, write
from tests.support import NOON

DAY = timedelta(days=1)


@pytest.fixture
def store(settings: Settings) -> AdapterStore:
    return AdapterStore(settings.adapters)


@pytest.fixture
def listed(database: Database, store: AdapterStore, tmp_path: Path) -> Sequence[str]:
    """Three versions; the first was read a week ago, the next six days ago, the last five."""
    for seed in range(3):
        write(tmp_path / "tree" / "8bits_r4" / f"name{seed}", good(seed))
    results = import_tree(database, store, tmp_path / "tree")
    ids = [str(result.adapter_id) for result in results]
    for age, id in zip((7, 6, 5), ids, strict=True):
        change(database, id, verified_at=NOON - age * DAY)
    return ids


def change(database: Database, id: str, **values: datetime | None) -> None:
    with database.transaction() as session:
        session.execute(update(Adapter).where(Adapter.id == id).values(**values))


def row(database: Database, id: str) -> Adapter:
    with database.reading() as session:
        return registry.get_any_adapter(session, id)


def taken(database: Database, at: datetime = NOON, every: timedelta = DAY) -> str | None:
    with database.transaction() as session:
        adapter = take(session, at, every)
        return adapter.id if adapter else None


def always(settings: Settings) -> Settings:
    return settings.model_copy(update={"scrub_seconds": 1e-6})


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_the_version_that_nobody_has_read_for_longest_comes_first(
    database: Database, listed: Sequence[str]
) -> None:
    assert taken(database) == listed[0]
    with database.transaction() as session:
        record(session, listed[0], [], now=NOON)
    assert taken(database) == listed[1]


def test_a_version_that_was_read_lately_waits(database: Database, listed: Sequence[str]) -> None:
    assert taken(database, every=8 * DAY) is None
    assert taken(database, every=6.5 * DAY) == listed[0]


def test_one_version_is_read_at_a_time_whoever_reads_it(
    database: Database, listed: Sequence[str]
) -> None:
    assert taken(database) == listed[0]
    assert taken(database) is None
    assert taken(database, NOON + ABANDONED - timedelta(seconds=1)) is None


def test_what_a_dead_process_was_reading_is_taken_again(
    database: Database, listed: Sequence[str]
) -> None:
    taken(database)
    assert taken(database, NOON + ABANDONED) == listed[0]


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)  # SQLite has one writer
def test_of_two_that_saw_the_same_version_one_gets_it(
    database: Database, listed: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other marks it between our look and our mark."""
    with database.transaction() as session:
        scalars = session.scalars

        def overtaken(query: object, *args: object, **kw: object) -> object:
            found = scalars(query, *args, **kw)  # type: ignore[call-overload]
            if "verified_at <=" in str(query):
                change(database, listed[0], verifying_since=NOON)
            return found

        monkeypatch.setattr(session, "scalars", overtaken)
        assert take(session, NOON, DAY) is None


def test_sound_versions_are_read_one_after_another_and_dated(
    database: Database, store: AdapterStore, settings: Settings, listed: Sequence[str]
) -> None:
    scrubber = Scrubber(database, store, settings)  # once a week: the three are long due
    for _ in listed:
        scrubber()
    for id in listed:
        found = row(database, id)
        assert (found.damage, found.verifying_since) == (None, None)
        assert found.verified_at > NOON


def test_a_damaged_version_is_marked_and_logged(
    database: Database,
    store: AdapterStore,
    settings: Settings,
    listed: Sequence[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    flip(store.folder(listed[0]) / WEIGHTS)
    with caplog.at_level(logging.ERROR):
        Scrubber(database, store, settings)()
    damaged = row(database, listed[0])
    assert damaged.damage is not None
    assert damaged.damage.startswith(f"{WEIGHTS}: has SHA-256")
    assert f"adapter {listed[0]} (8bits_r4/name0 version 1) is damaged" in caplog.text
    with pytest.raises(AdapterDamaged, match="restore its folder from a backup"):
        registry.require_sound(damaged)
    registry.require_sound(row(database, listed[1]))


def test_a_version_that_was_restored_is_sound_again(
    database: Database, store: AdapterStore, settings: Settings, listed: Sequence[str]
) -> None:
    weights = store.folder(listed[0]) / WEIGHTS
    for damaged in (True, False):
        flip(weights)
        change(database, listed[0], verified_at=NOON - 100 * DAY)
        Scrubber(database, store, settings)()
        assert (row(database, listed[0]).damage is not None) == damaged


def test_a_version_whose_folder_is_gone_is_damaged(
    database: Database, store: AdapterStore, settings: Settings, listed: Sequence[str]
) -> None:
    store.discard(listed[0])
    Scrubber(database, store, settings)()
    assert row(database, listed[0]).damage == "manifest.json: is missing"


def test_a_store_that_is_not_mounted_damages_nothing(
    database: Database,
    store: AdapterStore,
    settings: Settings,
    listed: Sequence[str],
    tmp_path: Path,
) -> None:
    settings.adapters.rename(tmp_path / "unmounted")
    Scrubber(database, store, settings)()
    assert [row(database, id).damage for id in listed] == [None] * 3
    assert [row(database, id).verifying_since for id in listed] == [None] * 3


def test_a_large_version_is_read_in_slices(
    database: Database,
    store: AdapterStore,
    settings: Settings,
    listed: Sequence[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The reconciler's other duties come in between."""
    monkeypatch.setattr(scrub, "SLICE", 0.0)
    scrubber, before = Scrubber(database, store, settings), NOON - 7 * DAY
    scrubber()
    assert row(database, listed[0]).verified_at == before
    assert row(database, listed[0]).verifying_since is not None
    calls = 1
    while row(database, listed[0]).verified_at == before:
        scrubber()
        calls += 1
    assert calls > 3  # one for each piece of each file


def test_many_problems_are_told_shortly(database: Database, listed: Sequence[str]) -> None:
    problems = [Problem(f"file{n}", Fault.MISSING, "is missing") for n in range(9)]
    with database.transaction() as session:
        record(session, listed[0], problems, now=NOON)
    damage = row(database, listed[0]).damage or ""
    assert damage.startswith("file0: is missing; file1: is missing")
    assert damage.endswith("and 4 more")


def test_without_adapters_there_is_nothing_to_read(
    database: Database, store: AdapterStore, settings: Settings
) -> None:
    Scrubber(database, store, always(settings))()
    with database.reading() as session:
        assert session.scalars(select(Adapter)).all() == []
