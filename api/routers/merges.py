"""Merges: adapters merged into their base, for engines that do not take them as they are."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Body, Path, Query, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from api.access import requires
from api.audit import AuditDep
from api.deps import DatabaseDep, HubDep, MergedDep
from api.errors import responses
from api.json import as_json
from api.new_runs import NewRun, NewRunsDep
from api.pages import Cursor, Limit, Name
from api.published import all_files, one_file
from api.queued import QueuedRead, queued
from api.ranges import Content, content_responses, respond
from api.routers import journal
from api.strict import StrictRoute
from finlora_core.access.keys import Caller
from finlora_core.access.scopes import Scope
from finlora_core.adapters import registry
from finlora_core.adapters.manifest import File, get_file
from finlora_core.audit.action import Action
from finlora_core.db.models import Adapter, MergedModel, Run
from finlora_core.db.session import now
from finlora_core.merging import results
from finlora_core.merging.config import MergeConfig, MergeRequest
from finlora_core.merging.fidelity import Fidelity
from finlora_core.merging.posting import create_merge as store_merge
from finlora_core.merging.probes import Probe, find_default, find_probe, training_of
from finlora_core.runs import lifecycle, queries
from finlora_core.runs.journal import Progress
from finlora_core.runs.kind import RunKind
from finlora_core.runs.status import RunStatus

router = APIRouter(
    tags=["merges"], responses=responses(401, 403, 422, 429, 503), route_class=StrictRoute
)

EXAMPLES = {
    "defaults": {"summary": "Published if it is near enough", "value": {}},
    "limits": {
        "summary": "With limits and rows of your own",
        "value": {"max_kl": 0.001, "dataset_path": "held_out.jsonl"},
    },
}

Reader = Annotated[Caller, requires(Scope.RUNS_READ)]
Writer = Annotated[Caller, requires(Scope.RUNS_WRITE)]
Fetcher = Annotated[Caller, requires(Scope.ADAPTERS_READ)]
Remover = Annotated[Caller, requires(Scope.ADAPTERS_WRITE)]
AdapterId = Annotated[str, Path(description="`adp_…`, as the run or the list shows it.")]
MergeId = Annotated[str, Path(description="`merge_…`, as the POST answered it.")]


class MergedRead(BaseModel):
    """What a merge has published."""

    fidelity: Fidelity
    overridden: str | None = Field(
        description="In which it is not as near as was asked for; null where it is.",
        examples=["KL 0.04 nats a token, above 0.01"],
    )
    size: int = Field(description="Bytes of all files.")
    files: list[File]


class MergeRead(QueuedRead):
    adapter_id: str
    progress: Progress | None = Field(
        description="Its steps are rows of either model, and models that were loaded or saved."
    )
    config: MergeConfig
    merged: MergedRead | None = Field(
        description="When it has succeeded; null again once it is deleted."
    )


class MergePage(BaseModel):
    data: list[MergeRead]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page.")


@router.post(
    "/adapters/{adapter_id}/merge",
    status_code=201,
    operation_id="create_merge",
    response_model=MergeRead,
    responses=responses(400, 404, 409, 410, 413, 415),
)
async def create_merge(
    adapter_id: AdapterId,
    request: Annotated[MergeRequest, Body(openapi_examples=EXAMPLES)],
    caller: Writer,
    runs: NewRunsDep,
    db: DatabaseDep,
) -> Response:
    """Queue a merge of the adapter into its base, in bfloat16. Published is what answers as the
    adapter does on the base that it was trained on."""

    def check() -> tuple[Adapter, Probe]:
        with db.reading() as session:
            adapter = registry.get_adapter(session, caller.owner, adapter_id)
            trained_on = training_of(session, adapter)
        registry.require_sound(adapter)
        data = caller.owner, runs.settings, runs.datasets
        if request.dataset_path is None:
            return adapter, find_default(trained_on, *data)
        return adapter, find_probe(request.dataset_path, *data)

    def create(session: Session, checked: tuple[Adapter, Probe], at: datetime) -> Run:
        adapter, probe = checked
        return store_merge(session, request, adapter, caller, probe, now=at)

    new = NewRun(
        caller=caller,
        action=Action.MERGE_CREATED,
        create=create,
        read=_read,
        kind=RunKind.MERGE,
    )
    read = await runs.make(new, check)
    return runs.answer(read, f"/merges/{read.id}")


@router.get("/merges", operation_id="list_merges", response_model=MergePage)
def list_merges(
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
            kind=RunKind.MERGE,
            status=status,
            name=name,
            cursor=cursor,
            limit=limit,
        )
        data = _read_all(session, page.rows)
    return as_json(MergePage(data=data, next_cursor=page.next_cursor))


@router.get(
    "/merges/{merge_id}",
    operation_id="get_merge",
    response_model=MergeRead,
    responses=responses(404),
)
def get_merge(merge_id: MergeId, caller: Reader, db: DatabaseDep) -> Response:
    """Status and progress; when it has succeeded, how near it is, and its files."""
    with db.reading() as session:
        return as_json(_read(session, _find(session, caller, merge_id)))


@router.post(
    "/merges/{merge_id}/cancel",
    status_code=202,
    operation_id="cancel_merge",
    response_model=MergeRead,
    responses=responses(404, 409),
)
def cancel_merge(merge_id: MergeId, caller: Writer, db: DatabaseDep, audit: AuditDep) -> Response:
    """Cancel a queued merge, or ask a running one to stop. Asking twice is asking once."""
    with db.transaction() as session:
        at = now(session)
        _find(session, caller, merge_id)
        audit.note(session, caller, Action.MERGE_CANCELLED, merge_id, now=at)
        run = lifecycle.request_cancel(session, merge_id, now=at)
        return as_json(_read(session, run), status=202)


@router.get("/merges/{merge_id}/events", operation_id="list_merge_events", **journal.EVENTS_ROUTE)
def list_merge_events(
    merge_id: MergeId,
    caller: Reader,
    db: DatabaseDep,
    hub: HubDep,
    as_stream: journal.AsStream,
    after: journal.After = 0,
    limit: Limit = 1000,
    last_event_id: journal.LastEventId = None,
) -> journal.Events | Response:
    """What has happened to the merge, as for a run."""
    start = journal.start_of(last_event_id, after)
    with db.reading() as session:
        run = _find(session, caller, merge_id)
        return journal.events_of(session, hub, run, as_stream, start, limit)


@router.get("/merges/{merge_id}/logs", operation_id="get_merge_logs", **journal.LOG_ROUTE)
def get_merge_logs(
    merge_id: MergeId,
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
        run = _find(session, caller, merge_id)
        return journal.log_of(session, hub, run, as_stream, start)


@router.head("/merges/{merge_id}/files/{path}", include_in_schema=False)
@router.get(
    "/merges/{merge_id}/files/{path}",
    operation_id="get_merged_file",
    response_class=Response,
    responses=content_responses("application/octet-stream"),
)
async def get_merged_file(
    merge_id: MergeId,
    path: Annotated[str, Path(description="As listed in the merge's `files`.")],
    caller: Fetcher,
    request: Request,
    db: DatabaseDep,
    store: MergedDep,
) -> Response:
    """One file. Its ETag is its SHA-256; `Range`, `If-Range` and `If-None-Match` work."""

    def find() -> Content:
        model = _find_model(db, caller, merge_id)
        return one_file(store, model.id, get_file(model.files, path))

    return await respond(request, find)


@router.head("/merges/{merge_id}/download", include_in_schema=False)
@router.get(
    "/merges/{merge_id}/download",
    operation_id="download_merged_model",
    response_class=Response,
    responses=content_responses("application/x-tar"),
)
async def download_merged_model(
    merge_id: MergeId, caller: Fetcher, request: Request, db: DatabaseDep, store: MergedDep
) -> Response:
    """All files as one tar archive with a folder in it.

    The same bytes each time, so that `Range` works here too."""

    def find() -> Content:
        model = _find_model(db, caller, merge_id)
        return all_files(store, model.id, model.files, top=model.id, at=model.created_at)

    return await respond(request, find)


@router.delete(
    "/merges/{merge_id}/files",
    status_code=204,
    operation_id="delete_merged_model",
    responses=responses(404),
)
def delete_merged_model(
    merge_id: MergeId, caller: Remover, db: DatabaseDep, store: MergedDep, audit: AuditDep
) -> None:
    """Remove the merged model. The merge stays listed; the adapter can be merged again."""
    with db.transaction() as session:
        _find(session, caller, merge_id)
        id = results.forget(session, caller.owner, merge_id)
        audit.note(session, caller, Action.MERGED_MODEL_DELETED, merge_id, now=now(session))
    store.discard(id)


def _find(session: Session, caller: Caller, id: str) -> Run:
    return queries.get_run(session, caller.owner, id, RunKind.MERGE)


def _find_model(db: DatabaseDep, caller: Caller, merge_id: str) -> MergedModel:
    with db.reading() as session:
        return results.get_merged_model(session, caller.owner, merge_id)


def _read(session: Session, run: Run) -> MergeRead:
    return _read_all(session, [run])[0]


def _read_all(session: Session, runs: Sequence[Run]) -> list[MergeRead]:
    positions = queries.queue_positions(session.connection(), runs)
    models = results.merged_models(session, [run.id for run in runs])
    return [_show(run, positions.get(run.id), models.get(run.id)) for run in runs]


def _show(run: Run, queue_position: int | None, model: MergedModel | None) -> MergeRead:
    config = MergeConfig.model_validate(run.config)
    return MergeRead(
        **queued(run, queue_position),
        adapter_id=config.adapter_id,
        progress=Progress.model_validate(run.progress) if run.progress else None,
        config=config,
        merged=_merged(model) if model else None,
    )


def _merged(model: MergedModel) -> MergedRead:
    files = [File.model_validate(file) for file in model.files]
    return MergedRead(
        fidelity=Fidelity.model_validate(model.fidelity),
        overridden=model.overridden,
        size=sum(file.size for file in files),
        files=files,
    )
