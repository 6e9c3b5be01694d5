"""The adapters that exist: add one, list them, find one."""

import re
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from finlora_core.adapters.manifest import WEIGHTS, File
from finlora_core.db.models import Adapter, Run
from finlora_core.db.pages import Page, page
from finlora_core.errors import NotFound


def adapter_id(run_id: str, attempt: int) -> str:
    """Known before there is a row: an attempt that comes again to publishing writes elsewhere."""
    return f"adp_{run_id.removeprefix('run_')}_{attempt}"


def attempt_of(id: str) -> tuple[str, int] | None:
    """The run and the attempt whose adapter has this id; None for any other id."""
    match = re.fullmatch(r"adp_(\w+)_(\d+)", id)
    return (f"run_{match[1]}", int(match[2])) if match else None


def add_adapter(session: Session, run: Run, id: str, files: Sequence[File]) -> Adapter:
    """The next version of the run's name within its variant."""
    newest = newest_version(session, run.variant, run.name)
    weights = next(file for file in files if file.path == WEIGHTS)
    adapter = Adapter(
        id=id,
        run_id=run.id,
        name=run.name,
        variant=run.variant,
        version=newest.version + 1 if newest else 1,
        base_model=run.base_model,
        sha256=weights.sha256,
        files=[file.model_dump() for file in files],
        created_at=run.finished_at,
    )
    session.add(adapter)
    session.flush()
    return adapter


def get_adapter(session: Session, id: str) -> Adapter:
    """Raises `NotFound`."""
    adapter = session.get(Adapter, id)
    if adapter is None:
        raise NotFound("adapter", id)
    return adapter


def list_adapters(
    session: Session,
    *,
    name: str | None,
    variant: str | None,
    base_model: str | None,
    run_id: str | None,
    cursor: str | None,
    limit: int,
) -> Page[Adapter]:
    """Newest first. Raises `InvalidCursor`."""
    wanted = {"name": name, "variant": variant, "base_model": base_model, "run_id": run_id}
    filters = {key: value for key, value in wanted.items() if value is not None}
    return page(session, select(Adapter).filter_by(**filters), Adapter, cursor, limit)


def get_file(adapter: Adapter, path: str) -> File:
    """Only what the manifest lists can be downloaded. Raises `NotFound`."""
    for file in adapter.files:
        if file["path"] == path:
            return File.model_validate(file)
    raise NotFound("file", path)


def newest_version(session: Session, variant: str, name: str) -> Adapter | None:
    """What the stable path of the name shows."""
    of_name = select(Adapter).filter_by(variant=variant, name=name)
    return session.scalars(of_name.order_by(Adapter.version.desc()).limit(1)).first()
