"""Files that nothing owns are removed; all others stay. On both databases."""

import os
import time
from pathlib import Path

import pytest

from finlora_core.adapters import registry
from finlora_core.adapters.imports import import_tree, owner_of
from finlora_core.adapters.manifest import File
from finlora_core.adapters.store import AdapterStore
from finlora_core.db.session import Database, now
from finlora_core.merging.results import merged_id
from finlora_core.runs import lifecycle, queries
from finlora_core.runs.kind import RunKind
from finlora_core.runs.lifecycle import Lease, Order, Work
from finlora_core.runs.outcome import AttemptEnd, End
from finlora_core.runs.sweep import sweep
from finlora_core.settings import Settings
from finlora_core.training.files import RunFiles
from tests.bad_adapters import good, write
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


def test_a_merged_model_that_was_never_listed_is_removed(
    database: Database, settings: Settings
) -> None:
    at_work, ended = claimed_merge(database), claimed_merge(database)
    folders = []
    for lease in (at_work, ended):
        folder = settings.adapters / ".merged" / merged_id(lease.run_id, lease.attempt)
        folder.mkdir(parents=True)
        folders.append(age(folder))
    finish(database, ended, DRAINED)
    swept(database, settings)
    assert [folder.exists() for folder in folders] == [True, False]


def claimed_merge(database: Database) -> Lease:
    with database.transaction() as session:
        work = Work(
            kind=RunKind.MERGE,
            base_model="org/model",
            variant="8bits_r8",
            config={},
            config_sha256="c" * 64,
            dataset_rows=1,
            dataset_sha256="d" * 64,
        )
        lifecycle.create(session, work, Order(name="merged"), now=now(session))
        lease = lifecycle.claim_next(session, worker="w", now=now(session), ttl=TTL)
        assert lease is not None
        return lease


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
        registry.add_adapter(
            session, queries.get_any_run(session, lease.run_id), folder.name, FILES
        )
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


# ---- what dead imports and half-made links leave


def imported(database: Database, settings: Settings, tmp_path: Path, seed: int = 1) -> str:
    """The id of a listed version that no run stands behind."""
    source = write(tmp_path / f"source{seed}" / "8bits_r4" / "sentiment", good(seed))
    [result] = import_tree(database, AdapterStore(settings.adapters), source)
    return str(result.adapter_id)


def half_imported(settings: Settings, owner: str, place: str) -> tuple[Path, Path]:
    """A folder that was never listed and the note that an import of it was under way."""
    id = registry.imported_id()
    AdapterStore(settings.adapters).intend(id, owner)
    folder = settings.adapters / place / id
    folder.mkdir(parents=True)
    note = settings.adapters / ".staging" / f"{id}.intent"
    return age(folder), age(note)


@pytest.mark.parametrize("place", [".store", ".staging"])
def test_what_a_dead_import_left_is_removed(
    database: Database, settings: Settings, place: str
) -> None:
    folder, note = half_imported(settings, owner_of(database), place)
    swept(database, settings)
    assert not folder.exists()
    assert not note.exists()


def test_an_import_under_way_stays(database: Database, settings: Settings) -> None:
    folder, note = half_imported(settings, owner_of(database), ".store")
    note.touch()
    swept(database, settings)
    assert folder.exists()
    assert note.exists()


def test_another_databases_dead_import_stays(database: Database, settings: Settings) -> None:
    folder, note = half_imported(settings, "somebody else", ".store")
    swept(database, settings)
    assert folder.exists()
    assert note.exists()


def test_a_note_that_was_never_written_to_its_end_goes(
    database: Database, settings: Settings
) -> None:
    _, note = half_imported(settings, "", ".staging")
    swept(database, settings)
    assert not note.exists()


def test_of_an_import_that_was_listed_only_the_note_goes(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    id = imported(database, settings, tmp_path)
    store = AdapterStore(settings.adapters)
    store.intend(id, owner_of(database))
    age(settings.adapters / ".staging" / f"{id}.intent")
    swept(database, settings)
    assert store.folder(id).is_dir()
    assert list((settings.adapters / ".staging").iterdir()) == []


def test_a_link_that_was_never_put_into_its_place_goes(
    database: Database, settings: Settings
) -> None:
    staging = settings.adapters / ".staging"
    staging.mkdir(parents=True)
    for name in ("old.link", "young.link"):
        (staging / name).symlink_to("nowhere")
    then = time.time() - 2 * HOUR
    os.utime(staging / "old.link", (then, then), follow_symlinks=False)
    swept(database, settings)
    assert [path.name for path in staging.iterdir()] == ["young.link"]


def test_a_stable_path_is_led_to_the_newest_version_again(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    """Whoever listed it died before the link."""
    older, newer = (imported(database, settings, tmp_path, seed) for seed in (1, 2))
    store = AdapterStore(settings.adapters)
    stable = store.link("local", "8bits_r4", "sentiment", older)
    swept(database, settings)
    assert stable.resolve() == store.folder(newer)
    stable.unlink()
    swept(database, settings)
    assert stable.resolve() == store.folder(newer)


def test_a_folder_of_the_users_own_stays_where_a_link_should_be(
    database: Database, settings: Settings, tmp_path: Path
) -> None:
    imported(database, settings, tmp_path)
    stable = AdapterStore(settings.adapters).stable_path("local", "8bits_r4", "sentiment")
    stable.unlink()
    stable.mkdir()
    swept(database, settings)
    assert stable.is_dir()
    assert not stable.is_symlink()
