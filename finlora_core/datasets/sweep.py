"""Uploads that crashes left half done, datasets that have expired, parts that nobody completed."""

import logging
import time
from pathlib import Path

from finlora_core.datasets import registry, uploads
from finlora_core.datasets.files import DatasetFiles
from finlora_core.db.session import Database, now
from finlora_core.errors import DatasetInUse, NotFound

logger = logging.getLogger(__name__)


def sweep_datasets(database: Database, files: DatasetFiles, grace: float) -> None:
    """`grace` is in seconds: how long a request may take to settle what it began."""
    _settle(database, files, grace)
    _remove_expired(database, files)
    _discard_parts(database, files)


def _settle(database: Database, files: DatasetFiles, grace: float) -> None:
    # seen before the database is asked: what commits in between is found there
    old = [(id, part) for id, part in files.unsettled() if _is_older(part, grace)]
    with database.reading() as session:
        listed = registry.listed(session, [id for id, _ in old])
    for id, part in old:
        files.settle(part, listed=id in listed)
        logger.info("settled %s: %s", id, "it is listed" if id in listed else "removed")


def _remove_expired(database: Database, files: DatasetFiles) -> None:
    with database.reading() as session:
        expired = registry.expired(session, now=now(session))
    for dataset in expired:
        try:
            with files.removing(dataset.owner, dataset.id), database.transaction() as session:
                registry.forget_dataset(session, dataset.owner, dataset.id)
        except (DatasetInUse, NotFound):
            continue  # later; another process was first


def _discard_parts(database: Database, files: DatasetFiles) -> None:
    with database.reading() as session:
        ended = uploads.expired(session, now=now(session))
    for upload in ended:
        files.discard_parts(upload.owner, upload.id)
    if ended:
        with database.transaction() as session:
            uploads.forget(session, [upload.id for upload in ended])


def _is_older(path: Path, seconds: float) -> bool:
    try:
        # not its mtime: a dataset that is being removed was written long ago
        return time.time() - path.lstat().st_ctime > seconds
    except FileNotFoundError:  # another process sweeps too
        return False
