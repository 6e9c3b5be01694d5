"""Evaluations: adapters and base models judged on FinLoRA's tasks, or on data of your own."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Body, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.orm import Session

from api.access import requires
from api.audit import AuditDep
from api.deps import DatabaseDep, HubDep
from api.errors import responses
from api.json import JSONLinesResponse, as_json, jsonl_responses
from api.new_runs import NewRun, NewRunsDep
from api.pages import Cursor, Limit, Name
from api.queued import QueuedRead, queued
from api.results import ResultRead
from api.routers import journal
from api.strict import StrictRoute
from finlora_core.access.keys import Caller
from finlora_core.access.scopes import Scope
from finlora_core.audit.action import Action
from finlora_core.db.models import EvaluationResult, Run
from finlora_core.db.session import now
from finlora_core.evaluation import outputs, results
from finlora_core.evaluation.config import EvaluationConfig, EvaluationRequest
from finlora_core.evaluation.posting import create_evaluation as store_evaluation
from finlora_core.evaluation.sets import FoundSet, find_sets
from finlora_core.runs import lifecycle, queries
from finlora_core.runs.kind import RunKind
from finlora_core.runs.status import RunStatus

router = APIRouter(
    prefix="/evaluations",
    tags=["evaluations"],
    responses=responses(401, 403, 422, 429, 503),
    route_class=StrictRoute,
)

EXAMPLES = {
    "adapter": {
        "summary": "An adapter on a task of FinLoRA's",
        "value": {"adapters": ["adp_6f1c2a90d3e84b7f9a10_1"], "tasks": [{"task": "tfns"}]},
    },
    "own data": {
        "summary": "Two adapters and their base on data of your own",
        "value": {
            "adapters": ["adp_6f1c2a90d3e84b7f9a10_1", "adp_0b7d41c2e9f34a6c8d15_1"],
            "base_model": "meta-llama/Llama-3.1-8B-Instruct",
            "tasks": [{"dataset_path": "held_out.jsonl", "metric": "accuracy"}],
            "limit": 500,
        },
    },
}

Reader = Annotated[Caller, requires(Scope.RUNS_READ)]
Writer = Annotated[Caller, requires(Scope.RUNS_WRITE)]
EvaluationId = Annotated[str, Path(description="`eval_…`, as POST /evaluations answered it.")]
ResultId = Annotated[str, Path(description="`res_…`, as the evaluation lists it.")]


class Answered(BaseModel):
    """How far an evaluation is, over all of its models and sets."""

    model_config = ConfigDict(from_attributes=True)

    rows: int = Field(validation_alias="step", description="Answered so far.")
    all_rows: int = Field(validation_alias="max_steps")
    percent: float
    eta_seconds: float | None = Field(description="Time left at the pace so far.")


class EvaluationRead(QueuedRead):
    progress: Answered | None
    config: EvaluationConfig
    results: list[ResultRead] = Field(description="When it has succeeded: a model and set each.")


class EvaluationPage(BaseModel):
    data: list[EvaluationRead]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page.")


@router.post(
    "",
    status_code=201,
    operation_id="create_evaluation",
    response_model=EvaluationRead,
    responses=responses(400, 409, 413, 415),
)
async def create_evaluation(
    request: Annotated[EvaluationRequest, Body(openapi_examples=EXAMPLES)],
    caller: Writer,
    runs: NewRunsDep,
) -> Response:
    """Queue an evaluation. It waits in the same line as trainings, and is claimed like them."""

    def create(session: Session, sets: Sequence[FoundSet], at: datetime) -> Run:
        return store_evaluation(session, request, caller, sets, now=at)

    new = NewRun(
        caller=caller,
        action=Action.EVALUATION_CREATED,
        create=create,
        read=_read,
        kind=RunKind.EVALUATION,
    )
    check = partial(find_sets, request, caller.owner, runs.settings, runs.datasets)
    read = await runs.make(new, check)
    return runs.answer(read, f"/evaluations/{read.id}")


@router.get("", operation_id="list_evaluations", response_model=EvaluationPage)
def list_evaluations(
    caller: Reader,
    db: DatabaseDep,
    status: Annotated[RunStatus | None, Query(description="Only those in this one.")] = None,
    name: Name = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Response:
    """Newest first, page by page."""
    with db.reading() as session:
        page = queries.list_runs(
            session,
            caller.owner,
            kind=RunKind.EVALUATION,
            status=status,
            name=name,
            cursor=cursor,
            limit=limit,
        )
        data = _read_all(session, page.rows)
    return as_json(EvaluationPage(data=data, next_cursor=page.next_cursor))


@router.get(
    "/{evaluation_id}",
    operation_id="get_evaluation",
    response_model=EvaluationRead,
    responses=responses(404),
)
def get_evaluation(evaluation_id: EvaluationId, caller: Reader, db: DatabaseDep) -> Response:
    """Status and progress; when it has succeeded, what each model is worth on each set."""
    with db.reading() as session:
        return as_json(_read(session, _find(session, caller, evaluation_id)))


@router.post(
    "/{evaluation_id}/cancel",
    status_code=202,
    operation_id="cancel_evaluation",
    response_model=EvaluationRead,
    responses=responses(404, 409),
)
def cancel_evaluation(
    evaluation_id: EvaluationId, caller: Writer, db: DatabaseDep, audit: AuditDep
) -> Response:
    """Cancel a queued evaluation, or ask a running one to stop. Asking twice is asking once."""
    with db.transaction() as session:
        at = now(session)
        _find(session, caller, evaluation_id)
        audit.note(session, caller, Action.EVALUATION_CANCELLED, evaluation_id, now=at)
        run = lifecycle.request_cancel(session, evaluation_id, now=at)
        return as_json(_read(session, run), status=202)


@router.get(
    "/{evaluation_id}/events", operation_id="list_evaluation_events", **journal.EVENTS_ROUTE
)
def list_evaluation_events(
    evaluation_id: EvaluationId,
    caller: Reader,
    db: DatabaseDep,
    hub: HubDep,
    as_stream: journal.AsStream,
    after: journal.After = 0,
    limit: Limit = 1000,
    last_event_id: journal.LastEventId = None,
) -> journal.Events | Response:
    """What has happened to the evaluation, as for a run."""
    start = journal.start_of(last_event_id, after)
    with db.reading() as session:
        run = _find(session, caller, evaluation_id)
        return journal.events_of(session, hub, run, as_stream, start, limit)


@router.get("/{evaluation_id}/logs", operation_id="get_evaluation_logs", **journal.LOG_ROUTE)
def get_evaluation_logs(
    evaluation_id: EvaluationId,
    caller: Reader,
    db: DatabaseDep,
    hub: HubDep,
    as_stream: journal.AsStreamNotText,
    offset: journal.Offset = 0,
    last_event_id: journal.LastOffset = None,
) -> Response:
    """The log, as for a run."""
    start = journal.start_of(last_event_id, offset)
    with db.reading() as session:
        run = _find(session, caller, evaluation_id)
        return journal.log_of(session, hub, run, as_stream, start)


@router.get(
    "/{evaluation_id}/outputs/{result_id}",
    operation_id="get_evaluation_outputs",
    response_class=JSONLinesResponse,
    responses=jsonl_responses(404),
)
def get_evaluation_outputs(
    evaluation_id: EvaluationId, result_id: ResultId, caller: Reader, db: DatabaseDep
) -> JSONLinesResponse:
    """The rows behind a result, one JSON object a line: `line` of the dataset, `target`,
    `output`, what was read in it (`prediction`), and its `score` of `weight`."""
    with db.reading() as session:
        run = _find(session, caller, evaluation_id)
        packed = results.packed_outputs(session, caller.owner, run.id, result_id)
    return JSONLinesResponse(outputs.unpack(packed))


def _find(session: Session, caller: Caller, id: str) -> Run:
    return queries.get_run(session, caller.owner, id, RunKind.EVALUATION)


def _read(session: Session, run: Run) -> EvaluationRead:
    return _read_all(session, [run])[0]


def _read_all(session: Session, runs: Sequence[Run]) -> list[EvaluationRead]:
    positions = queries.queue_positions(session.connection(), runs)
    found = results.results_of(session, [run.id for run in runs])
    return [_show(run, positions.get(run.id), found.get(run.id, ())) for run in runs]


def _show(
    run: Run, queue_position: int | None, found: Sequence[EvaluationResult]
) -> EvaluationRead:
    return EvaluationRead(
        **queued(run, queue_position),
        progress=Answered.model_validate(run.progress) if run.progress else None,
        config=EvaluationConfig.model_validate(run.config),
        results=[ResultRead.model_validate(row) for row in found],
    )
