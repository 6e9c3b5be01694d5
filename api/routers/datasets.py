"""Datasets: upload a file of rows, look at it, name its id in a run config."""

from datetime import datetime
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel, Field

from api.access import requires
from api.audit import AuditDep
from api.deps import DatabaseDep, DatasetFilesDep, SettingsDep
from api.errors import SCHEMAS, responses
from api.idempotency import IdempotencyKey
from api.intake import Intake, UploadFields
from api.multipart import describe
from api.pages import Cursor, Limit
from api.ranges import Content, content_responses, respond
from api.strict import STREAMED, StrictRoute
from finlora_core.access.keys import Caller
from finlora_core.access.scopes import Scope
from finlora_core.adapters import archive
from finlora_core.audit.action import Action
from finlora_core.datasets import registry, stats
from finlora_core.datasets.files import DatasetFiles
from finlora_core.db.models import Dataset
from finlora_core.db.session import Database, now
from finlora_core.runs.config import PromptFormat

router = APIRouter(
    prefix="/datasets",
    tags=["datasets"],
    responses=responses(401, 403, 422, 429, 503),
    route_class=StrictRoute,
)

Reader = Annotated[Caller, requires(Scope.DATASETS_READ)]
Writer = Annotated[Caller, requires(Scope.DATASETS_WRITE)]
DatasetId = Annotated[str, Path(description="`dataset_…`, as POST /datasets answered it.")]


class DatasetRead(BaseModel):
    id: str = Field(description="What `dataset_path` of a run config may be.")
    name: str = Field(description="The file's, as it was sent.")
    owner: str
    prompt_format: PromptFormat
    bytes: int
    rows: int
    sha256: str
    created_at: datetime
    expires_at: datetime | None


class DatasetPage(BaseModel):
    data: list[DatasetRead]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page.")


class TurnRead(BaseModel):
    role: str
    text: str
    is_trained: bool = Field(description="Whether the model learns to say it; else it is given.")


class Preview(BaseModel):
    data: list[list[TurnRead]] = Field(description="The first rows, each as its turns.")


class SpreadRead(BaseModel):
    p50: int
    p95: int
    max: int


class StatsRead(BaseModel):
    rows: int
    given: SpreadRead = Field(description="Characters that the model reads, over all rows.")
    trained: SpreadRead = Field(description="Characters that it learns to say.")
    labels: dict[str, int] | None = Field(
        description="How often each answer occurs, when they are few and short."
    )


@router.post(
    "",
    status_code=201,
    operation_id="create_dataset",
    responses=responses(400, 409, 413, 507),
    dependencies=[STREAMED],
    openapi_extra=describe(
        "file", UploadFields.model_json_schema(ref_template=SCHEMAS)["properties"]
    ),
)
async def create_dataset(
    caller: Writer,
    request: Request,
    response: Response,
    settings: SettingsDep,
    db: DatabaseDep,
    files: DatasetFilesDep,
    audit: AuditDep,
    idempotency_key: IdempotencyKey = None,
) -> DatasetRead:
    """Upload JSON lines. They are checked line by line; what cannot be trained on is not kept."""
    intake = Intake(caller, settings, db, files, audit)
    read = _read(await intake.receive(request, response, idempotency_key, UploadFields.of))
    response.headers["Location"] = f"/datasets/{read.id}"
    return read


@router.get("", operation_id="list_datasets")
def list_datasets(
    caller: Reader,
    db: DatabaseDep,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> DatasetPage:
    """Newest first, page by page."""
    with db.reading() as session:
        page = registry.list_datasets(session, caller.owner, cursor=cursor, limit=limit)
    return DatasetPage(data=[_read(row) for row in page.rows], next_cursor=page.next_cursor)


@router.get("/{dataset_id}", operation_id="get_dataset", responses=responses(404))
def get_dataset(dataset_id: DatasetId, caller: Reader, db: DatabaseDep) -> DatasetRead:
    """One dataset: its form, rows, bytes and SHA-256."""
    return _read(_find(db, caller, dataset_id))


@router.head("/{dataset_id}/content", include_in_schema=False)
@router.get(
    "/{dataset_id}/content",
    operation_id="get_dataset_content",
    response_class=Response,
    responses=content_responses("application/jsonl"),
)
async def get_dataset_content(
    dataset_id: DatasetId,
    caller: Reader,
    request: Request,
    db: DatabaseDep,
    files: DatasetFilesDep,
) -> Response:
    """The file as it was sent. `Range`, `If-Range` and `If-None-Match` work."""
    return await respond(request, lambda: content_of(_find(db, caller, dataset_id), files))


@router.get("/{dataset_id}/preview", operation_id="preview_dataset", responses=responses(404, 410))
def preview_dataset(
    dataset_id: DatasetId,
    caller: Reader,
    db: DatabaseDep,
    files: DatasetFilesDep,
    rows: Annotated[int, Query(ge=1, le=100, description="How many of the first.")] = 5,
) -> Preview:
    """The first rows as they are rendered: what the model reads, what it learns to say.

    Of `chat` and `alpaca` rows without what the base model's template puts around them."""
    dataset = _find(db, caller, dataset_id)
    path = files.require(dataset.owner, dataset.id)
    data = [
        [TurnRead.model_validate(turn, from_attributes=True) for turn in row]
        for row in stats.preview(path, dataset.prompt_format, rows)
    ]
    return Preview(data=data)


@router.get("/{dataset_id}/stats", operation_id="get_dataset_stats", responses=responses(404, 410))
def get_dataset_stats(
    dataset_id: DatasetId, caller: Reader, db: DatabaseDep, files: DatasetFilesDep
) -> StatsRead:
    """How long its rows are, in characters, and how often each label occurs."""
    dataset = _find(db, caller, dataset_id)
    path = files.require(dataset.owner, dataset.id)
    return StatsRead.model_validate(
        stats.measure(path, dataset.prompt_format), from_attributes=True
    )


@router.delete(
    "/{dataset_id}",
    status_code=204,
    operation_id="delete_dataset",
    responses=responses(404, 409),
)
def delete_dataset(
    dataset_id: DatasetId,
    caller: Writer,
    db: DatabaseDep,
    files: DatasetFilesDep,
    audit: AuditDep,
) -> None:
    """Remove it, unless a run that has not ended trains on it."""
    _find(db, caller, dataset_id)
    with files.removing(caller.owner, dataset_id), db.transaction() as session:
        registry.forget_dataset(session, caller.owner, dataset_id)
        audit.note(session, caller, Action.DATASET_DELETED, dataset_id, now=now(session))


def content_of(dataset: Dataset, files: DatasetFiles) -> Content:
    """Raises `DatasetFileMissing`."""
    path = files.require(dataset.owner, dataset.id)
    return Content(
        size=dataset.bytes,
        sha256=dataset.sha256,
        media_type="application/jsonl",
        filename=path.name,
        read=partial(archive.read, path),
    )


def _find(db: Database, caller: Caller, dataset_id: str) -> Dataset:
    with db.reading() as session:
        return registry.get_dataset(session, caller.owner, dataset_id)


def _read(dataset: Dataset) -> DatasetRead:
    return DatasetRead.model_validate(dataset, from_attributes=True)
