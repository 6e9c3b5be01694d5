"""Files that nothing owns are removed; all others stay. On both databases."""

import os
import time
from pathlib import Path

import pytest

from finlora_core.adapters import registry
from finlora_core.adapters.manifest import File
from finlora_core.adapters.store import AdapterStore
from finlora_core.db.session import Database, now
from finlora_core.runs import lifecycle, queries
from finlora_core.runs.lifecycle import Lease
from finlora_core.runs.outcome import AttemptEnd, End
from finlora_core.runs.sweep import sweep
from finlora_core.settings import Settings
from finlora_core.training.files import RunFiles
from tests.contract.test_lifecycle import COMPLETED, FAILED, TTL, cancel, claimed, create, finish
from tests.support import POLICY

HOUR = 3600.0
DRAINED = AttemptEnd(end=End.DRAINED)
FILES = [File(path="adapter_model.safetensors", size=3, sha256="a" * 64)]


def age(folder: Path, seconds: float = 2 * HOUR) -> Path:
    then = time.time() - seconds
    os.utime(folder, (then, then))
    return folder


def version(settings: Settings, lease: Lease, place: str = ".store") -> Path:
    """An attempt's published or staged folder, two hours old."""
    folder = settings.adapters / place / registry.adapter_id(lease.run_id, lease.attempt)
    folder.mkdir(parents=True)
    return age(folder)


def scratch(settings: Settings, lease: Lease) -> Path:
    """An attempt's folder with output, two hours old."""
    files = RunFiles.of(settings.runs, lease.run_id).attempt(lease.attempt)
    files.output.mkdir(parents=True)
    files.log.write_text("log")
    age(files.root)
    return files.output


def checkpoints(settings: Settings, lease: Lease) -> Path:
    folder = RunFiles.of(settings.runs, lease.run_id).checkpoints / "attempt-1" / "checkpoint-5"
    folder.mkdir(parents=True)
    return folder


def claimed_now(database: Database) -> Lease:
    create(database)
    with database.transaction() as session:
        lease = lifecycle.claim_next(session, worker="w", now=now(session), ttl=TTL)
        assert lease is not None
        return lease


def swept(database: Database, settings: Settings) -> None:
    sweep(database, AdapterStore(settings.adapters), settings)


@pytest.mark.parametrize("place", [".store", ".staging"])
def test_a_version_that_was_never_listed_is_removed(
    database: Database, settings: Settings, place: str
) -> None:
    lease = claimed(database)
    folder = version(settings, lease, place)
    finish(database, lease, DRAINED)
    swept(database, settings)
    assert not folder.exists()


@pytest.mark.parametrize("place", [".store", ".staging"])
def test_a_version_that_is_just_being_published_stays(
    database: Database, settings: Settings, place: str
) -> None:
    folder = version(settings, claimed(database), place)
    swept(database, settings)
    assert folder.exists()


def test_a_listed_version_stays(database: Database, settings: Settings) -> None:
    lease = claimed(database)
    folder = version(settings, lease)
    finish(database, lease, COMPLETED)
    with database.transaction() as session:
        registry.add_adapter(session, queries.get_run(session, lease.run_id), folder.name, FILES)
    swept(database, settings)
    assert folder.exists()


def test_a_young_one_stays(database: Database, settings: Settings) -> None:
    lease = claimed(database)
    folder, output = version(settings, lease), scratch(settings, lease)
    for path in (folder, output.parent):
        age(path, HOUR / 2)
    finish(database, lease, DRAINED)
    swept(database, settings)
    assert folder.exists()
    assert output.exists()


@pytest.mark.parametrize("name", ["adp_0123456789_1", "somebody's", "adp_x"])
def test_what_this_database_does_not_know_is_somebody_elses(
    database: Database, settings: Settings, name: str
) -> None:
    theirs = settings.adapters / ".store" / name
    theirs.mkdir(parents=True)
    run = RunFiles.of(settings.runs, "run_0123456789")
    run.attempt(1).output.mkdir(parents=True)
    age(theirs), age(run.attempt(1).root)
    swept(database, settings)
    assert theirs.exists()
    assert run.attempt(1).output.exists()


def test_a_dead_attempts_output_is_removed_and_its_log_stays(
    database: Database, settings: Settings
) -> None:
    lease = claimed(database)
    output = scratch(settings, lease)
    swept(database, settings)
    assert output.exists()
    finish(database, lease, DRAINED)
    swept(database, settings)
    assert not output.exists()
    assert (output.parent / "train.log").read_text() == "log"


@pytest.mark.parametrize(
    ("end", "keep", "stays"),
    [
        (DRAINED, 0.0, True),
        (COMPLETED, HOUR, False),
        (FAILED, HOUR, True),
        (FAILED, 0.0, False),
    ],
    ids=["it waits", "it has succeeded", "it may be retried", "too late for a retry"],
)
def test_checkpoints_stay_while_somebody_may_go_on_from_them(
    database: Database, settings: Settings, end: AttemptEnd, keep: float, stays: bool
) -> None:
    lease = claimed_now(database)
    folder = checkpoints(settings, lease)
    with database.transaction() as session:
        lifecycle.finish(session, lease, end, now=now(session), policy=POLICY)
    swept(database, settings.model_copy(update={"keep_checkpoints_seconds": keep}))
    assert folder.exists() == stays


def test_a_cancelled_runs_checkpoints_stay_for_a_retry(
    database: Database, settings: Settings
) -> None:
    run_id = create(database)
    cancel(database, run_id)
    folder = checkpoints(settings, Lease(run_id, 1, ""))
    swept(database, settings.model_copy(update={"keep_checkpoints_seconds": 100 * 365 * 86400}))
    assert folder.exists()
