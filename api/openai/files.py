"""Files: datasets, by OpenAI's names, and the metrics of finished jobs."""

from typing import Annotated, Any, Literal

from anyio.to_thread import run_sync
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from api.access import requires
from api.audit import AuditDep
from api.deps import DatabaseDep, DatasetFilesDep, SettingsDep
from api.idempotency import IdempotencyKey
from api.intake import Intake, UploadFields
from api.multipart import Form, describe
from api.openai import results
from api.openai.errors import responses
from api.openai.ids import FILE, RESULT, native, shown
from api.openai.lists import After, ListOf, list_of
from api.ranges import respond
from api.routers.datasets import content_of
from api.strict import STREAMED, StrictRoute
from finlora_core.access.keys import Caller
from finlora_core.access.scopes import Scope
from finlora_core.audit.action import Action
from finlora_core.datasets import registry
from finlora_core.db.models import Dataset
from finlora_core.db.pages import cursor_after
from finlora_core.db.session import Database, now
from finlora_core.errors import InvalidRequest, KeyProblem

router = APIRouter(
    prefix="/v1/files",
    tags=["openai: files"],
    responses=responses(400, 401, 403, 429, 503),
    route_class=StrictRoute,
)

PURPOSE: Literal["fine-tune"] = "fine-tune"
MAX_PAGE = 10_000
"""OpenAI's."""

Reader = Annotated[Caller, requires(Scope.DATASETS_READ)]
Writer = Annotated[Caller, requires(Scope.DATASETS_WRITE)]
FileId = Annotated[str, Path(description="`file-…`, as the upload answered it.")]


class FileObject(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int = Field(description="Unix seconds, as all times here.")
    filename: str
    purpose: Literal["fine-tune", "fine-tune-results"]
    status: Literal["processed"] = Field(
        default="processed", description="What cannot be trained on is refused, not kept."
    )
    expires_at: int | None = None


class FileDeleted(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


_FIELDS: dict[str, Any] = {
    "purpose": {"type": "string", "enum": [PURPOSE]},
    "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
    "expires_after[seconds]": {"type": "integer"},
}


@router.post(
    "",
    operation_id="openai_create_file",
    responses=responses(409, 413, 507),
    dependencies=[STREAMED],
    openapi_extra=describe("file", _FIELDS),
)
async def create_file(
    caller: Writer,
    request: Request,
    response: Response,
    settings: SettingsDep,
    db: DatabaseDep,
    files: DatasetFilesDep,
    audit: AuditDep,
    idempotency_key: IdempotencyKey = None,
) -> FileObject:
    """Upload JSON lines to train on, of `{context, target}`, `{messages}` or alpaca's form.

    Every line is checked before the answer; the first that cannot be used is named."""
    intake = Intake(caller, settings, db, files, audit)
    return show_file(await intake.receive(request, response, idempotency_key, _fields_of))


@router.get("", operation_id="openai_list_files", responses=responses(404))
def list_files(
    caller: Reader,
    db: DatabaseDep,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE, description="Files of a page.")] = MAX_PAGE,
    order: Annotated[Literal["desc"], Query(description="Newest first.")] = "desc",
    purpose: Annotated[str, Query(description="Of any other there are none.")] = PURPOSE,
) -> ListOf[FileObject]:
    """The files to train on. Results of jobs are named by their jobs."""
    if purpose != PURPOSE:
        return list_of([], has_more=False)
    with db.reading() as session:
        last = registry.get_dataset(session, caller.owner, native(FILE, after)) if after else None
        cursor = cursor_after(last) if last else None
        page = registry.list_datasets(session, caller.owner, cursor=cursor, limit=limit)
    return list_of([show_file(row) for row in page.rows], has_more=page.next_cursor is not None)


@router.get("/{file_id}", operation_id="openai_get_file", responses=responses(404))
def get_file(file_id: FileId, caller: Reader, db: DatabaseDep) -> FileObject:
    """One file, to train on or of a job's results."""
    if file_id.startswith(RESULT):
        return _show_result(results.read(db, caller.owner, file_id))
    return show_file(_find(db, caller.owner, file_id))


@router.get(
    "/{file_id}/content",
    operation_id="openai_get_file_content",
    response_class=Response,
    responses=responses(404, 410),
)
async def get_file_content(
    file_id: FileId,
    caller: Reader,
    request: Request,
    db: DatabaseDep,
    files: DatasetFilesDep,
) -> Response:
    """The file as it was sent; of a job's results, a table of its metrics as CSV."""
    if file_id.startswith(RESULT):
        result = await run_sync(results.read, db, caller.owner, file_id)
        return Response(result.content, media_type="text/csv")
    return await respond(request, lambda: content_of(_find(db, caller.owner, file_id), files))


@router.delete("/{file_id}", operation_id="openai_delete_file", responses=responses(404, 409))
def delete_file(
    file_id: FileId,
    caller: Writer,
    db: DatabaseDep,
    files: DatasetFilesDep,
    audit: AuditDep,
) -> FileDeleted:
    """Remove it, unless a job that has not ended trains on it."""
    dataset = _find(db, caller.owner, file_id)
    with files.removing(caller.owner, dataset.id), db.transaction() as session:
        registry.forget_dataset(session, caller.owner, dataset.id)
        audit.note(session, caller, Action.DATASET_DELETED, dataset.id, now=now(session))
    return FileDeleted(id=file_id)


def show_file(dataset: Dataset) -> FileObject:
    expires_at = dataset.expires_at
    return FileObject(
        id=shown(dataset.id),
        bytes=dataset.bytes,
        created_at=int(dataset.created_at.timestamp()),
        filename=dataset.name,
        purpose=PURPOSE,
        expires_at=int(expires_at.timestamp()) if expires_at else None,
    )


def require_purpose(purpose: str | None) -> None:
    """Raises `InvalidRequest`."""
    if purpose != PURPOSE:
        raise InvalidRequest(
            KeyProblem("purpose", "invalid_value", f"must be {PURPOSE!r}: this server trains")
        )


def _fields_of(form: Form) -> UploadFields:
    """OpenAI's fields as the native ones. Raises `InvalidRequest`."""
    fields = dict(form.fields)
    require_purpose(fields.pop("purpose", None))
    fields.pop("expires_after[anchor]", None)  # there is one anchor only
    if (seconds := fields.pop("expires_after[seconds]", None)) is not None:
        fields["expires_after_seconds"] = seconds
    return UploadFields.of(Form(form.filename, fields))


def _show_result(result: results.Result) -> FileObject:
    return FileObject(
        id=result.id,
        bytes=len(result.content),
        created_at=result.created_at,
        filename=results.FILENAME,
        purpose="fine-tune-results",
    )


def _find(db: Database, owner: str, file_id: str) -> Dataset:
    with db.reading() as session:
        return registry.get_dataset(session, owner, native(FILE, file_id))
