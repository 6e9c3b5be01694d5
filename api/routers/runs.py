"""Runs: post a FinLoRA run config, watch it, pause, resume, cancel or retry it."""

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache, partial
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Body, Path, Query, Response
from pydantic import BaseModel, Field
from sqlalchemy import Connection, Row
from sqlalchemy.orm import Session

from api.access import requires
from api.audit import Audit, AuditDep
from api.deps import DatabaseDep, LooksDep, QueueDep
from api.errors import responses
from api.json import as_json
from api.new_runs import NewRun, NewRunsDep
from api.pages import Cursor, Limit, Name, Variant
from api.strict import StrictRoute
from finlora_core.access.keys import Caller
from finlora_core.access.scopes import Scope
from finlora_core.audit.action import Action
from finlora_core.db.models import Run
from finlora_core.db.session import Database, now
from finlora_core.runs import lifecycle, posting, queries
from finlora_core.runs.config import RunConfig, RunRequest
from finlora_core.runs.journal import Progress
from finlora_core.runs.outcome import End
from finlora_core.runs.status import Phase, RunStatus
from finlora_core.runs.turns import COUNTED
from finlora_core.training.axolotl import (
    Hardware,
    TrainingInput,
    profile_changes,
    render,
    to_yaml,
)
from finlora_core.training.files import AttemptFiles

router = APIRouter(
    prefix="/runs",
    tags=["runs"],
    responses=responses(401, 403, 422, 429, 503),
    route_class=StrictRoute,
)

EXAMPLE = {
    "name": "sentiment_llama_3_1_8b_8bits_r8",
    "base_model": "meta-llama/Llama-3.1-8B-Instruct",
    "dataset_path": "../data/train/finlora_sentiment_train.jsonl",
    "lora_r": 8,
    "quant_bits": 8,
    "learning_rate": 0.0001,
    "num_epochs": 4,
    "batch_size": 8,
    "gradient_accumulation_steps": 2,
}

KNOWN_CONFIGS = 1024
"""Remembered once they are read, a kilobyte or two each: pages show the same ones again."""

Reader = Annotated[Caller, requires(Scope.RUNS_READ)]
Writer = Annotated[Caller, requires(Scope.RUNS_WRITE)]
RunId = Annotated[str, Path(description="`run_…`, as POST /runs answered it.")]


class YAMLResponse(Response):
    media_type: str = "application/yaml"


class Dataset(BaseModel):
    path: str = Field(description="As written in the run config.")
    rows: int
    sha256: str


class RunError(BaseModel):
    """Why a run failed."""

    code: str = Field(description="Stable; listed in docs/errors.md.")
    hint: str = Field(description="What to do about it.")
    log_tail: str = Field(description="The last log lines.")


class Change(BaseModel):
    """An Axolotl key that the profile `fast` renders otherwise."""

    key: str = Field(examples=["sample_packing"])
    faithful: Any = Field(examples=[False])
    fast: Any = Field(examples=[True])


class RunRead(BaseModel):
    id: str
    name: str
    owner: str = Field(description="Owners take turns for the workers.")
    parent_id: str | None = Field(description="The run that this one tries again.")
    variant: str = Field(description="The adapter's folder: `8bits_r8_dora`.")
    status: RunStatus
    phase: Phase | None = Field(description="What a running attempt is busy with.")
    cancel_requested: bool = Field(description="A wish; the status changes when training stopped.")
    pause_requested: bool = Field(description="A wish; the status changes when training stopped.")
    priority: int
    queue_position: int | None = Field(
        description=f"Runs ahead of this one, counted up to {COUNTED}; null unless queued."
    )
    waiting_for: str | None = Field(
        description="What keeps a queued run waiting although its turn may be there: a worker "
        "with as many GPUs as it asks for."
    )
    not_before: datetime | None = Field(
        description="When a queued run may be claimed: later than now after crashes."
    )
    attempt: int = Field(description="How often a worker has started on this run.")
    crashes: int = Field(description="Attempts that crashed since the newest checkpoint.")
    progress: Progress | None
    checkpoint_step: int | None = Field(
        description="Of the newest whole checkpoint: where the next attempt goes on."
    )
    time_limit_seconds: float | None
    metadata: dict[str, str] | None
    config: RunConfig
    profile_changes: list[Change] = Field(
        description="What the config's `profile` changes on a GPU; empty for `faithful`."
    )
    dataset: Dataset
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: RunError | None
    adapter_id: str | None = Field(description="The adapter this run has published.")


class RunPage(BaseModel):
    data: list[RunRead]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page.")


class AttemptRead(BaseModel):
    """One worker's try at a run."""

    number: int
    worker: str = Field(description="Host, process and boot.")
    started_at: datetime
    ended_at: datetime | None
    resumed_from: int | None = Field(description="The step of the checkpoint it went on from.")
    end: End | None = Field(description="How it ended; null while it lasts.")
    error_code: str | None


class Attempts(BaseModel):
    data: list[AttemptRead]


@router.post(
    "",
    status_code=201,
    operation_id="create_run",
    response_model=RunRead,
    responses=responses(400, 409, 413, 415),
)
async def create_run(
    request: Annotated[RunRequest, Body(openapi_examples={"FinLoRA": {"value": EXAMPLE}})],
    caller: Writer,
    runs: NewRunsDep,
) -> Response:
    """Queue a run. It is safe once this answers, even if no worker and no broker is up."""
    about = request, caller.owner, runs.settings, runs.datasets

    def create(session: Session, data: posting.Data, at: datetime) -> Run:
        return posting.create_run(session, request, caller, data, now=at)

    new = NewRun(caller=caller, action=Action.RUN_CREATED, create=create, read=_read)
    check, recall = partial(posting.check_data, *about), partial(posting.recall_data, *about)
    read = await runs.make(new, check, recall)
    return runs.answer(read, f"/runs/{read.id}")


@router.get("", operation_id="list_runs", response_model=RunPage)
async def list_runs(
    caller: Reader,
    looks: LooksDep,
    status: Annotated[RunStatus | None, Query(description="Only those in this one.")] = None,
    name: Name = None,
    variant: Variant = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Response:
    """Newest first, page by page."""

    def look(connection: Connection) -> Response:
        page = queries.show_runs(
            connection,
            caller.owner,
            status=status,
            name=name,
            variant=variant,
            cursor=cursor,
            limit=limit,
        )
        data = _read_all(connection, page.rows)
        return as_json(RunPage(data=data, next_cursor=page.next_cursor))

    return await looks.browse(look)


@router.get("/{run_id}", operation_id="get_run", response_model=RunRead, responses=responses(404))
async def get_run(run_id: RunId, caller: Reader, looks: LooksDep) -> Response:
    """Status, phase, progress, and why it failed if it did."""

    def look(connection: Connection) -> RunRead:
        return _read_all(connection, [queries.show_run(connection, caller.owner, run_id)])[0]

    return as_json(await looks.glance(look))


@router.post(
    "/{run_id}/cancel",
    status_code=202,
    operation_id="cancel_run",
    responses=responses(404, 409),
)
def cancel_run(run_id: RunId, caller: Writer, db: DatabaseDep, audit: AuditDep) -> RunRead:
    """Cancel a queued run, or ask a running one to stop. Asking twice is asking once."""
    return _steer(run_id, caller, db, audit, Action.RUN_CANCELLED, lifecycle.request_cancel)


@router.post(
    "/{run_id}/pause",
    status_code=202,
    operation_id="pause_run",
    responses=responses(404, 409),
)
def pause_run(run_id: RunId, caller: Writer, db: DatabaseDep, audit: AuditDep) -> RunRead:
    """Pause a queued run, or ask a running one to save a checkpoint and let go of its GPU.

    Asking twice is asking once."""
    return _steer(run_id, caller, db, audit, Action.RUN_PAUSED, lifecycle.request_pause)


@router.post(
    "/{run_id}/resume",
    status_code=202,
    operation_id="resume_run",
    responses=responses(404, 409),
)
def resume_run(
    run_id: RunId, caller: Writer, db: DatabaseDep, queue: QueueDep, audit: AuditDep
) -> RunRead:
    """Queue a paused run again; it goes on at the step where it was paused."""
    read = _steer(run_id, caller, db, audit, Action.RUN_RESUMED, lifecycle.resume_run)
    posting.offer(db, queue, run_id)
    return read


@router.post(
    "/{run_id}/retry",
    status_code=201,
    operation_id="retry_run",
    response_model=RunRead,
    responses=responses(404, 409),
)
async def retry_run(run_id: RunId, caller: Writer, runs: NewRunsDep, db: DatabaseDep) -> Response:
    """A new run of the same config, for one that failed or was cancelled.

    It goes on from the old run's newest checkpoint, if the dataset is still the same."""

    def check() -> tuple[RunConfig, posting.Data]:
        with db.reading() as session:
            parent = queries.get_run(session, caller.owner, run_id)
        config = RunConfig.model_validate(parent.config)
        return config, posting.check_data(config, parent.owner, runs.settings, runs.datasets)

    def create(session: Session, checked: tuple[RunConfig, posting.Data], at: datetime) -> Run:
        config, data = checked
        return posting.retry_run(session, run_id, config, caller, data, now=at)

    new = NewRun(
        caller=caller,
        action=Action.RUN_RETRIED,
        create=create,
        read=_read,
        told={"parent_id": run_id},
    )
    read = await runs.make(new, check)
    return runs.answer(read, f"/runs/{read.id}")


@router.get("/{run_id}/attempts", operation_id="list_attempts", responses=responses(404))
def list_attempts(run_id: RunId, caller: Reader, db: DatabaseDep) -> Attempts:
    """Each worker's try at the run: when, where, from which checkpoint, and how it ended."""
    with db.reading() as session:
        queries.get_run(session, caller.owner, run_id)
        rows = queries.list_attempts(session, run_id)
    return Attempts(data=[AttemptRead.model_validate(row, from_attributes=True) for row in rows])


@router.get(
    "/{run_id}/config.yaml",
    operation_id="get_run_config",
    response_class=YAMLResponse,
    responses={
        **responses(404),
        200: {"content": {YAMLResponse.media_type: {"schema": {"type": "object"}}}},
    },
)
def get_run_config(run_id: RunId, caller: Reader, db: DatabaseDep) -> YAMLResponse:
    """The Axolotl configuration: as trained, or a preview while the run has not started."""
    with db.reading() as session:
        run = queries.get_run(session, caller.owner, run_id)
    return YAMLResponse(run.axolotl_yaml or _preview(run))


def _steer(
    run_id: str,
    caller: Caller,
    db: Database,
    audit: Audit,
    action: Action,
    move: Callable[..., Run],
) -> RunRead:
    """A move of the lifecycle on a run of the caller's, told of in the same transaction."""
    with db.transaction() as session:
        at = now(session)
        queries.get_run(session, caller.owner, run_id)
        audit.note(session, caller, action, run_id, now=at)
        return _read(session, move(session, run_id, now=at))


def _read(session: Session, run: Run) -> RunRead:
    return _read_all(session.connection(), [run])[0]


def _read_all(connection: Connection, runs: Sequence[Run | Row[Any]]) -> list[RunRead]:
    positions = queries.queue_positions(connection, runs)
    lacking = queries.lacking_gpus(connection, runs)
    return [
        _show(run, positions.get(run.id), lacking.get(run.id), _adapter_of(connection, run))
        for run in runs
    ]


def _adapter_of(connection: Connection, run: Run | Row[Any]) -> str | None:
    """A row comes with it."""
    return queries.adapter_id(connection, run) if isinstance(run, Run) else run.adapter_id


def _show(
    run: Run | Row[Any],
    queue_position: int | None,
    waiting_for: str | None,
    adapter_id: str | None,
) -> RunRead:
    config = _config_of(run)
    dataset = Dataset(path=config.dataset_path, rows=run.dataset_rows, sha256=run.dataset_sha256)
    return RunRead(
        id=run.id,
        name=run.name,
        owner=run.owner,
        parent_id=run.parent_id,
        variant=run.variant,
        status=run.status,
        phase=run.phase,
        cancel_requested=run.cancel_requested_at is not None,
        pause_requested=run.pause_requested_at is not None,
        priority=run.priority,
        queue_position=queue_position,
        waiting_for=waiting_for,
        not_before=run.not_before if run.status is RunStatus.QUEUED else None,
        attempt=run.attempt,
        crashes=run.crashes,
        progress=Progress.model_validate(run.progress) if run.progress else None,
        checkpoint_step=run.checkpoint_step,
        time_limit_seconds=run.time_limit_seconds,
        metadata=run.user_metadata,
        config=config,
        profile_changes=[
            Change(key=key, faithful=faithful, fast=fast)
            for key, (faithful, fast) in profile_changes(config).items()
        ],
        dataset=dataset,
        created_at=run.created_at,
        started_at=run.started_at,
        finished_at=run.finished_at,
        error=error_of(run),
        adapter_id=adapter_id,
    )


def _config_of(run: Run | Row[Any]) -> RunConfig:
    return (
        RunConfig.model_validate(run.config)
        if isinstance(run, Run)
        else _read_config(run.config_json)
    )


@lru_cache(KNOWN_CONFIGS)
def _read_config(text: str) -> RunConfig:
    return RunConfig.model_validate(json.loads(text))


def error_of(run: Run | Row[Any]) -> RunError | None:
    if run.error_code is None:
        return None
    return RunError(code=run.error_code, hint=run.error_hint or "", log_tail=run.error_log or "")


def _preview(run: Run) -> str:
    """What a GPU worker would render; the paths are filled in by the worker that claims it."""
    config = RunConfig.model_validate(run.config)
    given = TrainingInput.as_written(config, run.dataset_rows)
    files = AttemptFiles.of(FilePath("<runs>"), run.id, run.attempt + 1)
    rendered = render(config, given, files, Hardware.CUDA)
    return "# Preview for a GPU worker: no worker has rendered this run yet.\n" + to_yaml(rendered)
