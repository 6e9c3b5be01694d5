"""The adapters that exist: add one, list them, find one."""

import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, bindparam, func, select
from sqlalchemy.orm import Session

from finlora_core.adapters.manifest import CARD, MANIFEST, WEIGHTS, File
from finlora_core.db.models import Adapter, Run
from finlora_core.db.pages import Page, page
from finlora_core.errors import AdapterDamaged, AmbiguousAdapter, NotFound
from finlora_core.stages.stage import Stage


@dataclass(frozen=True)
class Identity:
    """What versions are counted within, and what they were trained on."""

    name: str
    variant: str
    base_model: str
    owner: str


def adapter_id(run_id: str, attempt: int) -> str:
    """Known before there is a row: an attempt that comes again to publishing writes elsewhere."""
    return f"adp_{run_id.removeprefix('run_')}_{attempt}"


def attempt_of(id: str) -> tuple[str, int] | None:
    """The run and the attempt whose adapter has this id; None for any other id."""
    match = re.fullmatch(r"adp_(\w+)_(\d+)", id)
    return (f"run_{match[1]}", int(match[2])) if match else None


def imported_id() -> str:
    """For an adapter that no run stands behind."""
    return f"adp_imported_{uuid.uuid4().hex[:20]}"


def add_adapter(session: Session, run: Run, id: str, files: Sequence[File]) -> Adapter:
    """The next version of the run's name within its variant."""
    assert run.finished_at is not None  # noqa: S101  # for mypy: it has succeeded
    identity = Identity(run.name, run.variant, run.base_model, run.owner)
    return _add(session, identity, id, files, run_id=run.id, at=run.finished_at)


def add_imported(
    session: Session, identity: Identity, id: str, files: Sequence[File], *, now: datetime
) -> Adapter:
    """The next version of its name, without a run."""
    return _add(session, identity, id, files, run_id=None, at=now)


def _add(
    session: Session,
    identity: Identity,
    id: str,
    files: Sequence[File],
    *,
    run_id: str | None,
    at: datetime,
) -> Adapter:
    newest = newest_version(session, identity.owner, identity.variant, identity.name)
    weights = next(file for file in files if file.path == WEIGHTS)
    adapter = Adapter(
        id=id,
        owner=identity.owner,
        run_id=run_id,
        name=identity.name,
        variant=identity.variant,
        version=newest.version + 1 if newest else 1,
        base_model=identity.base_model,
        sha256=weights.sha256,
        files=[file.model_dump() for file in files],
        created_at=at,
        verified_at=at,
    )
    session.add(adapter)
    session.flush()
    return adapter


def find_same(session: Session, identity: Identity, files: Sequence[File]) -> Adapter | None:
    """The version of this name that holds the same bytes, but for its card and manifest."""
    weights = next(file for file in files if file.path == WEIGHTS)
    same = select(Adapter).filter_by(
        owner=identity.owner,
        name=identity.name,
        variant=identity.variant,
        sha256=weights.sha256,
    )
    wanted = _content(files)
    return next(
        (
            row
            for row in session.scalars(same)
            if _content(map(File.model_validate, row.files)) == wanted
        ),
        None,
    )


def _content(files: Iterable[File]) -> Mapping[str, str]:
    return {file.path: file.sha256 for file in files if file.path not in (CARD, MANIFEST)}


def get_any_adapter(session: Session, id: str) -> Adapter:
    """Whosever it is: for the service itself, never for a request. Raises `NotFound`."""
    adapter = session.get(Adapter, id)
    if adapter is None:
        raise NotFound("adapter", id)
    return adapter


def get_adapter(session: Session, owner: str, id: str) -> Adapter:
    """Raises `NotFound`."""
    adapter = session.scalars(select(Adapter).filter_by(id=id, owner=owner)).first()
    if adapter is None:
        raise NotFound("adapter", id)
    return adapter


def find_published(connection: Connection, owner: str, id: str) -> Row[Any]:
    """The columns that a download needs. Raises `NotFound`, `AdapterDamaged`."""
    found = connection.execute(_published(), {"id": id, "owner": owner}).one_or_none()
    if found is None:
        raise NotFound("adapter", id)
    require_sound(found)
    return found


@cache  # to build it takes as long as to execute it
def _published() -> Select[Any]:
    columns = Adapter.id, Adapter.name, Adapter.version, Adapter.created_at
    asked = Adapter.id == bindparam("id"), Adapter.owner == bindparam("owner")
    return select(*columns, Adapter.files, Adapter.damage).where(*asked)


def list_adapters(
    session: Session,
    owner: str,
    *,
    name: str | None,
    variant: str | None,
    base_model: str | None,
    run_id: str | None,
    stage: Stage | None,
    cursor: str | None,
    limit: int,
) -> Page[Adapter]:
    """Newest first. Raises `InvalidCursor`."""
    wanted = {
        "name": name,
        "variant": variant,
        "base_model": base_model,
        "run_id": run_id,
        "stage": stage,
    }
    filters = {key: value for key, value in wanted.items() if value is not None}
    own = select(Adapter).filter_by(owner=owner, **filters)
    return page(session, own, Adapter, cursor, limit)


def newest_versions(session: Session) -> Sequence[Adapter]:
    """Of each name in each variant: what the stable paths are to show."""
    named = (Adapter.owner, Adapter.variant, Adapter.name)
    newest = select(*named, func.max(Adapter.version).label("version")).group_by(*named).subquery()
    same = and_(
        Adapter.owner == newest.c.owner,
        Adapter.variant == newest.c.variant,
        Adapter.name == newest.c.name,
        Adapter.version == newest.c.version,
    )
    return session.scalars(select(Adapter).join(newest, same)).all()


def find_version(
    session: Session,
    owner: str,
    name: str,
    variant: str | None = None,
    version: int | None = None,
) -> Adapter:
    """The adapter of this name: of its only variant, the newest version, unless told otherwise.

    Raises `NotFound`, or `AmbiguousAdapter` naming the variants that there are.
    """
    named = select(Adapter.variant).filter_by(owner=owner, name=name).distinct()
    variants = sorted(session.scalars(named)) if variant is None else [variant]
    if len(variants) > 1:
        raise AmbiguousAdapter(name, variants)
    own = select(Adapter).filter_by(owner=owner, name=name)
    of_name = own.where(Adapter.variant.in_(variants))
    if version is not None:
        of_name = of_name.where(Adapter.version == version)
    adapter = session.scalars(of_name.order_by(Adapter.version.desc()).limit(1)).first()
    if adapter is None:
        shown = [
            name,
            *([variant] if variant else []),
            *([f"version {version}"] if version else []),
        ]
        raise NotFound("adapter", ", ".join(shown))
    return adapter


def require_sound(adapter: Adapter | Row[Any]) -> None:
    """Raises `AdapterDamaged` when its files were found changed at the last look."""
    if adapter.damage is not None:
        raise AdapterDamaged(
            f"adapter {adapter.id!r} is not what was published any more ({adapter.damage}); "
            "restore its folder from a backup, or train it again"
        )


def newest_version(session: Session, owner: str, variant: str, name: str) -> Adapter | None:
    """What the stable path of the name shows."""
    of_name = select(Adapter).filter_by(owner=owner, variant=variant, name=name)
    return session.scalars(of_name.order_by(Adapter.version.desc()).limit(1)).first()
