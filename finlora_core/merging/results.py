"""The merged models that exist: add one, find it, list those of an adapter."""

import re
from collections.abc import Mapping, Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from finlora_core.adapters.manifest import File
from finlora_core.db.models import MergedModel, Run
from finlora_core.errors import NotFound
from finlora_core.merging.config import MergeConfig
from finlora_core.merging.fidelity import Fidelity, shortcomings

NEWEST = 100
"""Merges that an adapter shows."""


def merged_id(run_id: str, attempt: int) -> str:
    """Its folder's name: an attempt that comes again to publishing writes elsewhere."""
    return f"{run_id}_{attempt}"


def attempt_of(id: str) -> tuple[str, int] | None:
    """The merge and the attempt whose model has this id; None for any other id."""
    match = re.fullmatch(r"(merge_[0-9a-f]+)_(\d+)", id)
    return (match[1], int(match[2])) if match else None


def store(session: Session, run: Run, id: str, fidelity: Fidelity, files: Sequence[File]) -> None:
    """Of a merge that has just succeeded."""
    assert run.finished_at is not None  # noqa: S101  # for mypy: it has succeeded
    config = MergeConfig.model_validate(run.config)
    model = MergedModel(
        id=id,
        created_at=run.finished_at,
        run_id=run.id,
        owner=run.owner,
        adapter_id=config.adapter_id,
        fidelity=fidelity.model_dump(),
        overridden="; ".join(shortcomings(fidelity, config)) or None,
        files=[file.model_dump() for file in files],
    )
    session.add(model)
    session.flush()


def merged_models(session: Session, run_ids: Sequence[str]) -> Mapping[str, MergedModel]:
    """By merge, of those that have one."""
    of_runs = select(MergedModel).where(MergedModel.run_id.in_(run_ids))
    return {model.run_id: model for model in session.scalars(of_runs)}


def get_merged_model(session: Session, owner: str, run_id: str) -> MergedModel:
    """What the merge has published. Raises `NotFound`."""
    one = select(MergedModel).where(MergedModel.run_id == run_id, MergedModel.owner == owner)
    model = session.scalars(one).first()
    if model is None:
        raise NotFound("merged model of", run_id)
    return model


def forget(session: Session, owner: str, run_id: str) -> str:
    """The id of the model, whose files can go once this is committed. Raises `NotFound`."""
    one = delete(MergedModel).where(MergedModel.run_id == run_id, MergedModel.owner == owner)
    id = session.scalars(one.returning(MergedModel.id)).first()
    if id is None:
        raise NotFound("merged model of", run_id)
    return id


def merges_of(session: Session, adapter_id: str) -> Sequence[str]:
    """Those whose models are there, the newest first."""
    of_adapter = select(MergedModel.run_id).where(MergedModel.adapter_id == adapter_id)
    newest = of_adapter.order_by(MergedModel.created_at.desc(), MergedModel.id.desc())
    return session.scalars(newest.limit(NEWEST)).all()
