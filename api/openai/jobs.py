"""Fine-tuning jobs: runs, by OpenAI's names."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from api.access import requires
from api.audit import AuditDep
from api.deps import DatabaseDep, QueueDep
from api.new_runs import NewRun, NewRunsDep
from api.openai.errors import responses
from api.openai.ids import CHECKPOINT, EVENT, FILE, JOB, native, number, shown
from api.openai.job import JobObject, show_job, tokens_in
from api.openai.job_request import JobRequest, to_run
from api.openai.lists import After, ListOf, list_of
from api.openai.names import checkpoint_of
from api.strict import StrictRoute
from finlora_core.access.keys import Caller
from finlora_core.access.scopes import Scope
from finlora_core.audit.action import Action
from finlora_core.datasets import registry
from finlora_core.db.models import Dataset, Event, Run
from finlora_core.db.pages import cursor_after
from finlora_core.db.session import Database, now
from finlora_core.errors import InvalidRequest, KeyProblem, NotFound
from finlora_core.evaluation.tasks import task_or_metric
from finlora_core.runs import events, journal, lifecycle, posting, queries
from finlora_core.runs.config import RunRequest
from finlora_core.runs.event_type import EventType, Level
from finlora_core.training.best import logged_as

router = APIRouter(
    prefix="/v1/fine_tuning/jobs",
    tags=["openai: fine-tuning"],
    responses=responses(400, 401, 403, 429, 503),
    route_class=StrictRoute,
)

Reader = Annotated[Caller, requires(Scope.RUNS_READ)]
Writer = Annotated[Caller, requires(Scope.RUNS_WRITE)]
JobId = Annotated[str, Path(description="`ftjob-…`, as POST /v1/fine_tuning/jobs answered it.")]


class EventObject(BaseModel):
    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Level
    message: str
    type: Literal["message"] = "message"
    data: dict[str, Any] = Field(description="`event` is the native event's type.")


class CheckpointMetrics(BaseModel):
    step: int
    train_loss: float | None
    valid_loss: float | None
    task_value: float | None = Field(description="By the metric of the job's `evaluation_task`.")


class CheckpointObject(BaseModel):
    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    step_number: int
    metrics: CheckpointMetrics = Field(description="The newest that were logged by then.")
    fine_tuned_model_checkpoint: str = Field(description="A name only: jobs go on from it.")
    fine_tuning_job_id: str


@router.post("", operation_id="openai_create_job", responses=responses(409, 413, 415))
async def create_job(
    body: JobRequest, caller: Writer, runs: NewRunsDep, db: DatabaseDep
) -> JobObject:
    """Queue a fine-tuning job. Any key of a FinLoRA run config may stand beside OpenAI's."""

    def check() -> tuple[RunRequest, posting.Data]:
        request = _run_request(db, caller.owner, body)
        return request, posting.check_data(request, caller.owner, runs.settings, runs.datasets)

    def create(session: Session, checked: tuple[RunRequest, posting.Data], at: datetime) -> Run:
        request, data = checked
        return posting.create_run(session, request, caller, data, now=at)

    new = NewRun(caller=caller, action=Action.RUN_CREATED, create=create, read=_show)
    return await runs.make(new, check)


@router.get("", operation_id="openai_list_jobs", responses=responses(404))
def list_jobs(
    request: Request,
    caller: Reader,
    db: DatabaseDep,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Entries of a page.")] = 20,
) -> ListOf[JobObject]:
    """Newest first."""
    if any(key.startswith("metadata") for key in request.query_params):
        raise InvalidRequest(KeyProblem("metadata", "invalid_value", "cannot be filtered by here"))
    with db.reading() as session:
        last = queries.get_run(session, caller.owner, native(JOB, after)) if after else None
        page = queries.list_runs(
            session,
            caller.owner,
            status=None,
            name=None,
            cursor=cursor_after(last) if last else None,
            limit=limit,
        )
        jobs = _show_all(session, page.rows)
    return list_of(jobs, has_more=page.next_cursor is not None)


@router.get("/{job_id}", operation_id="openai_get_job", responses=responses(404))
def get_job(job_id: JobId, caller: Reader, db: DatabaseDep) -> JobObject:
    """Its status, what it has made, and why it failed if it did."""
    with db.reading() as session:
        return _show(session, _find(session, caller.owner, job_id))


@router.post("/{job_id}/cancel", operation_id="openai_cancel_job", responses=responses(404, 409))
def cancel_job(job_id: JobId, caller: Writer, db: DatabaseDep, audit: AuditDep) -> JobObject:
    """A running job is `cancelled` once its training has stopped, within seconds."""
    with db.transaction() as session:
        at, run = now(session), _find(session, caller.owner, job_id)
        audit.note(session, caller, Action.RUN_CANCELLED, run.id, now=at)
        run = lifecycle.request_cancel(session, run.id, now=at)
        return _show(session, run)


@router.post("/{job_id}/pause", operation_id="openai_pause_job", responses=responses(404, 409))
def pause_job(job_id: JobId, caller: Writer, db: DatabaseDep, audit: AuditDep) -> JobObject:
    """A running job is `paused` once its checkpoint is saved."""
    with db.transaction() as session:
        at, run = now(session), _find(session, caller.owner, job_id)
        audit.note(session, caller, Action.RUN_PAUSED, run.id, now=at)
        run = lifecycle.request_pause(session, run.id, now=at)
        return _show(session, run)


@router.post("/{job_id}/resume", operation_id="openai_resume_job", responses=responses(404, 409))
def resume_job(
    job_id: JobId, caller: Writer, db: DatabaseDep, queue: QueueDep, audit: AuditDep
) -> JobObject:
    """Queue a paused job again; it goes on at the step where it was paused."""
    with db.transaction() as session:
        at, run = now(session), _find(session, caller.owner, job_id)
        audit.note(session, caller, Action.RUN_RESUMED, run.id, now=at)
        run = lifecycle.resume_run(session, run.id, now=at)
        job = _show(session, run)
    posting.offer(db, queue, run.id)
    return job


@router.get("/{job_id}/events", operation_id="openai_list_job_events", responses=responses(404))
def list_job_events(
    job_id: JobId,
    caller: Reader,
    db: DatabaseDep,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Entries of a page.")] = 20,
) -> ListOf[EventObject]:
    """What has happened to it, newest first."""
    before = number(EVENT, after) if after else None
    with db.reading() as session:
        run = _find(session, caller.owner, job_id)
        rows = events.newest_events(session, run.id, before=before, limit=limit + 1)
    return list_of([_show_event(row) for row in rows[:limit]], has_more=len(rows) > limit)


@router.get(
    "/{job_id}/checkpoints", operation_id="openai_list_job_checkpoints", responses=responses(404)
)
def list_job_checkpoints(
    job_id: JobId,
    caller: Reader,
    db: DatabaseDep,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Entries of a page.")] = 10,
) -> ListOf[CheckpointObject]:
    """Those that were saved while it trained, newest first; a succeeded job needs them no more."""
    before = number(CHECKPOINT, after) if after else None
    with db.reading() as session:
        run = _find(session, caller.owner, job_id)
        rows = events.newest_events(
            session, run.id, before=before, limit=limit + 1, type=EventType.CHECKPOINT_SAVED
        )
        data = [_show_checkpoint(session, run, row) for row in rows[:limit]]
    return list_of(data, has_more=len(rows) > limit)


def _run_request(db: Database, owner: str, body: JobRequest) -> RunRequest:
    """Raises `InvalidRequest`."""
    with db.reading() as session:
        training = _require_file(session, owner, "training_file", body.training_file)
        validation = (
            _require_file(session, owner, "validation_file", body.validation_file)
            if body.validation_file
            else None
        )
    return to_run(body, training.id, validation.id if validation else None, training.prompt_format)


def _require_file(session: Session, owner: str, key: str, file_id: str) -> Dataset:
    try:
        return registry.get_dataset(session, owner, native(FILE, file_id))
    except NotFound:
        raise InvalidRequest(
            KeyProblem(key, "invalid_value", f"there is no file {file_id!r}; upload it first")
        ) from None


def _find(session: Session, owner: str, job_id: str) -> Run:
    return queries.get_run(session, owner, native(JOB, job_id))


def _show(session: Session, run: Run) -> JobObject:
    return _show_all(session, [run])[0]


def _show_all(session: Session, runs: Sequence[Run]) -> list[JobObject]:
    at = now(session)
    adapters = queries.adapters(session, runs)
    return [show_job(run, adapters.get(run.id), _tokens(session, run), at) for run in runs]


def _tokens(session: Session, run: Run) -> int | None:
    if not run.status.is_terminal:
        return None
    return tokens_in(journal.newest_values(session, run.id))


def _show_event(event: Event) -> EventObject:
    return EventObject(
        id=f"{EVENT}{event.id}",
        created_at=int(event.at.timestamp()),
        level=event.level,
        message=event.message,
        data={"event": event.type, **event.data},
    )


def _task_value(run: Run, values: Mapping[str, float]) -> float | None:
    task = run.config.get("evaluation_task")
    return values.get(logged_as(task_or_metric(task).metric)) if task else None


def _show_checkpoint(session: Session, run: Run, event: Event) -> CheckpointObject:
    step = int(event.data["step"])
    values = journal.newest_values(session, run.id, step=step)
    return CheckpointObject(
        id=f"{CHECKPOINT}{event.id}",
        created_at=int(event.at.timestamp()),
        step_number=step,
        metrics=CheckpointMetrics(
            step=step,
            train_loss=values.get("loss"),
            valid_loss=values.get("eval_loss"),
            task_value=_task_value(run, values),
        ),
        fine_tuned_model_checkpoint=checkpoint_of(run, step),
        fine_tuning_job_id=shown(run.id),
    )
