"""The uploaded datasets that exist: add one, list them, find one, forget one."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from finlora_core.datasets.files import DATASET_ID
from finlora_core.datasets.intake import Received
from finlora_core.datasets.locate import no_such_upload
from finlora_core.db.models import Dataset, Run
from finlora_core.db.pages import Page, page
from finlora_core.errors import DatasetInUse, NotFound
from finlora_core.runs.status import RunStatus

MAX_NAME = 255
UNNAMED = "dataset.jsonl"

_ALIVE = [status for status in RunStatus if not status.is_terminal]


def add_dataset(
    session: Session,
    received: Received,
    *,
    owner: str,
    name: str,
    lifetime: timedelta | None,
    now: datetime,
) -> Dataset:
    dataset = Dataset(
        id=received.id,
        owner=owner,
        name=name,
        prompt_format=received.form,
        bytes=received.size,
        rows=received.facts.rows,
        sha256=received.facts.sha256,
        created_at=now,
        expires_at=now + lifetime if lifetime else None,
    )
    session.add(dataset)
    session.flush()
    return dataset


def plain_name(given: str) -> str:
    """What a client says its file is called, without folders and what cannot be printed."""
    last = given.replace("\\", "/").rpartition("/")[2]
    name = "".join(letter for letter in last if letter.isprintable())[:MAX_NAME]
    return UNNAMED if name in ("", ".", "..") else name


def get_dataset(session: Session, owner: str, id: str) -> Dataset:
    """Raises `NotFound`."""
    dataset = session.scalars(_one(owner, id)).first()
    if dataset is None:
        raise NotFound("dataset", id)
    return dataset


def list_datasets(
    session: Session, owner: str, *, cursor: str | None, limit: int
) -> Page[Dataset]:
    """Newest first. Raises `InvalidCursor`."""
    return page(session, select(Dataset).filter_by(owner=owner), Dataset, cursor, limit)


def hold_for_run(session: Session, owner: str, named: Iterable[str | None]) -> None:
    """Nobody deletes what is named of the owner's uploads, until the run is there.

    Raises `DatasetNotFound`.
    """
    for written in named:
        if written is not None and DATASET_ID.fullmatch(written):
            held = session.scalars(_one(owner, written).with_for_update(read=True)).first()
            if held is None:
                raise no_such_upload(written)


def forget_dataset(session: Session, owner: str, id: str) -> None:
    """Raises `NotFound`, or `DatasetInUse` naming the runs."""
    dataset = session.scalars(_one(owner, id).with_for_update()).first()
    if dataset is None:
        raise NotFound("dataset", id)
    if runs := runs_on(session, dataset):
        raise DatasetInUse(f"dataset {id!r} is needed by {', '.join(runs)}; cancel them first")
    session.delete(dataset)
    session.flush()


def runs_on(session: Session, dataset: Dataset) -> Sequence[str]:
    """The first of those that have not ended."""
    named = or_(
        Run.config["dataset_path"].as_string() == dataset.id,
        Run.config["validation_dataset_path"].as_string() == dataset.id,
        Run.config["tasks"].as_string().contains(dataset.id),
    )
    alive = select(Run.id).where(Run.status.in_(_ALIVE), Run.owner == dataset.owner, named)
    return session.scalars(alive.order_by(Run.id).limit(5)).all()


def listed(session: Session, ids: Sequence[str]) -> set[str]:
    return set(session.scalars(select(Dataset.id).where(Dataset.id.in_(ids))))


def expired(session: Session, *, now: datetime, limit: int = 100) -> Sequence[Dataset]:
    """Those that are to be removed, in use or not."""
    return session.scalars(
        select(Dataset).where(Dataset.expires_at <= now).order_by(Dataset.expires_at).limit(limit)
    ).all()


def _one(owner: str, id: str) -> Select[Dataset]:
    return select(Dataset).where(Dataset.id == id, Dataset.owner == owner)
