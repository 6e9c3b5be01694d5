"""Remove what crashes leave behind. Runs in the API and in every worker, wherever files are.

Only what is known to be nobody's is removed: files of attempts that have ended, that no row
lists, and that are old enough. Files of runs that this database does not know are somebody
else's and stay.
"""

import logging
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from finlora_core.adapters import registry
from finlora_core.adapters.imports import owner_of
from finlora_core.adapters.stable import link_newest
from finlora_core.adapters.store import AdapterStore, MergedStore, Store
from finlora_core.datasets.files import DatasetFiles
from finlora_core.datasets.sweep import sweep_datasets
from finlora_core.db.models import Adapter, MergedModel, Run
from finlora_core.db.session import Database, now
from finlora_core.idempotency import forget_old
from finlora_core.merging import results
from finlora_core.runs.status import RunStatus
from finlora_core.settings import Settings
from finlora_core.training.files import RunFiles

logger = logging.getLogger(__name__)

AT_ONCE = 500
"""Runs asked for in one query."""


class Sweeper:
    """A duty of the reconciler: sweeps four times in each grace."""

    def __init__(self, database: Database, store: AdapterStore, settings: Settings) -> None:
        self._database = database
        self._store = store
        self._settings = settings
        self._next = 0.0

    def __call__(self) -> None:
        if time.monotonic() >= self._next:
            sweep(self._database, self._store, self._settings)
            self._next = time.monotonic() + self._settings.sweep_grace_seconds / 4


def sweep(database: Database, store: AdapterStore, settings: Settings) -> None:
    merged = MergedStore(settings.adapters)
    for kept in (
        Kept(store, Adapter, registry.attempt_of),
        Kept(merged, MergedModel, results.attempt_of),
    ):
        _sweep_versions(database, kept, settings.sweep_grace_seconds)
    _sweep_imports(database, store, settings.sweep_grace_seconds)
    _mend_links(database, store)
    _sweep_runs(database, settings)
    sweep_datasets(database, DatasetFiles(settings.uploads), settings.sweep_grace_seconds)
    with database.transaction() as session:
        forget_old(session, now=now(session))


@dataclass(frozen=True)
class Kept:
    """What lies in a store: the table that lists it, and which attempt has made an id."""

    store: Store
    table: type[Adapter] | type[MergedModel]
    attempt_of: Callable[[str], tuple[str, int] | None]


def _sweep_versions(database: Database, kept: Kept, grace: float) -> None:
    """Folders that were never listed: their attempt ended before it could commit."""
    # listed before the database is asked: what commits in between is found there
    folders = [folder for folder in kept.store.versions() if _is_older(folder, grace)]
    for some in _some_at_once(folders):
        with database.reading() as session:
            unlisted = _unlisted(session, kept, [folder.name for folder in some])
        for folder in some:
            if folder.name in unlisted:
                logger.info("removed %s: no %s is listed for it", folder, kept.store.kind)
                shutil.rmtree(folder, ignore_errors=True)


def _unlisted(session: Session, kept: Kept, ids: Collection[str]) -> Collection[str]:
    listed = set(session.scalars(select(kept.table.id).where(kept.table.id.in_(ids))))
    attempts = {id: found for id in ids if id not in listed and (found := kept.attempt_of(id))}
    runs = _runs(session, {run_id for run_id, _ in attempts.values()})
    return {
        id
        for id, (run_id, attempt) in attempts.items()
        if run_id in runs and not _is_alive(runs[run_id], attempt)
    }


def _sweep_imports(database: Database, store: AdapterStore, grace: float) -> None:
    """What imports of ours that died have left: a folder that was never listed, and its note."""
    for note in [note for note in store.intents(owner_of(database)) if _is_older(note, grace)]:
        with database.reading() as session:
            listed = session.get(Adapter, note.stem) is not None
        if not listed:
            logger.info("removed %s: its import was never finished", note.stem)
            store.discard(note.stem)
        store.discard_staged(note.stem)
        store.fulfil(note.stem)
    for link in [link for link in store.half_links() if _is_older(link, grace)]:
        link.unlink(missing_ok=True)


def _mend_links(database: Database, store: AdapterStore) -> None:
    """Whoever listed a version may have died before linking it."""
    with database.reading() as session:
        newest = registry.newest_versions(session)
    for adapter in newest:
        if store.linked(adapter.owner, adapter.variant, adapter.name) != adapter.id:
            _try_link(database, store, adapter)


def _try_link(database: Database, store: AdapterStore, adapter: Adapter) -> None:
    stable = store.stable_path(adapter.owner, adapter.variant, adapter.name)
    if stable.exists() and not stable.is_symlink():
        return  # a folder of the user's own; said when the version was published
    try:
        link_newest(database, store, adapter.owner, adapter.variant, adapter.name)
        logger.info("linked %s to %s", stable, adapter.id)
    except OSError as error:
        logger.warning("%s was not linked: %s", stable, error)


def _sweep_runs(database: Database, settings: Settings) -> None:
    for some in _some_at_once(_folders(settings.runs)):
        with database.reading() as session:
            at, runs = now(session), _runs(session, {folder.name for folder in some})
        for folder in some:
            if folder.name in runs:
                _sweep_run(runs[folder.name], RunFiles(folder), settings, at)


def _sweep_run(run: Run, files: RunFiles, settings: Settings, at: datetime) -> None:
    for folder in files.root.glob("attempt-*"):
        number = int(folder.name.removeprefix("attempt-"))
        if not _is_alive(run, number) and _is_older(folder, settings.sweep_grace_seconds):
            files.attempt(number).discard_scratch()
    if _needs_no_checkpoints(run, at - timedelta(seconds=settings.keep_checkpoints_seconds)):
        files.discard_checkpoints()


def _needs_no_checkpoints(run: Run, cutoff: datetime) -> bool:
    """A failed or cancelled run can be retried from them for a while."""
    if run.status is RunStatus.SUCCEEDED:
        return True
    return run.finished_at is not None and run.finished_at <= cutoff


def _is_alive(run: Run, attempt: int) -> bool:
    return run.status is RunStatus.RUNNING and run.attempt == attempt


def _runs(session: Session, ids: Collection[str]) -> Mapping[str, Run]:
    return {run.id: run for run in session.scalars(select(Run).where(Run.id.in_(ids)))}


def _some_at_once(folders: Iterable[Path]) -> Iterator[Sequence[Path]]:
    rest = iter(folders)
    while some := list(islice(rest, AT_ONCE)):
        yield some


def _folders(root: Path) -> Iterator[Path]:
    return (folder for folder in root.iterdir() if folder.is_dir()) if root.is_dir() else iter(())


def _is_older(path: Path, seconds: float) -> bool:
    try:
        return time.time() - path.lstat().st_mtime > seconds
    except FileNotFoundError:  # another process sweeps too
        return False
