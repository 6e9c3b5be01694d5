"""Uploads: a large file in parts, sent in any order and at once, which become one file."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool

from api.access import requires
from api.audit import Audit, AuditDep
from api.deps import DatabaseDep, DatasetFilesDep, SettingsDep
from api.idempotency import OnceDep
from api.multipart import describe, receive
from api.openai.errors import responses
from api.openai.files import FileObject, require_purpose, show_file
from api.strict import STREAMED, StrictRoute
from finlora_core import quotas
from finlora_core.access.keys import Caller
from finlora_core.access.scopes import Scope
from finlora_core.audit.action import Action
from finlora_core.datasets import registry, uploads
from finlora_core.datasets.files import MIB, DatasetFiles, require_fits
from finlora_core.datasets.intake import Received, assemble, take
from finlora_core.db.models import Dataset, Upload
from finlora_core.db.session import Database, now

router = APIRouter(
    prefix="/v1/uploads",
    tags=["openai: uploads"],
    responses=responses(400, 401, 403, 429, 503),
    route_class=StrictRoute,
)

Writer = Annotated[Caller, requires(Scope.DATASETS_WRITE)]
UploadId = Annotated[str, Path(description="`upload_…`, as POST /v1/uploads answered it.")]


class ExpiresAfter(BaseModel):
    anchor: Literal["created_at"]
    seconds: int = Field(ge=1, le=10 * 365 * 86400)


class UploadRequest(BaseModel):
    bytes: int = Field(ge=1, le=2**53 - 1, description="Of the whole file.")
    filename: str = Field(max_length=1024)
    mime_type: str = Field(max_length=256, description="Any: its rows are looked at.")
    purpose: str = Field(examples=["fine-tune"])
    expires_after: ExpiresAfter | None = None


class CompleteRequest(BaseModel):
    part_ids: list[str] = Field(max_length=10_000, description="In the order of the file.")
    md5: str | None = Field(None, description="Of the whole file, in hexadecimal.")


class UploadObject(BaseModel):
    id: str
    object: Literal["upload"] = "upload"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Literal["fine-tune"] = "fine-tune"
    status: Literal["pending", "completed", "cancelled", "expired"]
    file: FileObject | None = None


class PartObject(BaseModel):
    id: str
    object: Literal["upload.part"] = "upload.part"
    created_at: int
    upload_id: str


@router.post("", operation_id="openai_create_upload", responses=responses(409, 413, 415))
def create_upload(
    body: UploadRequest,
    caller: Writer,
    settings: SettingsDep,
    db: DatabaseDep,
    once: OnceDep,
    audit: AuditDep,
) -> UploadObject:
    """Announce a file of `bytes` bytes. Its parts have a day to come."""
    require_purpose(body.purpose)
    require_fits(body.bytes, settings.max_upload_mib * MIB)
    name = registry.plain_name(body.filename)
    lifetime = body.expires_after.seconds if body.expires_after else None
    with db.transaction() as session:
        at = now(session)

        def begin() -> str:
            quotas.require_room_for_bytes(session, caller, body.bytes, now=at)
            id = uploads.begin_upload(
                session, caller.owner, name, body.bytes, lifetime=lifetime, now=at
            ).id
            audit.note(session, caller, Action.UPLOAD_CREATED, id, now=at, bytes=body.bytes)
            return id

        made = once.make(session, caller.owner, begin, now=at)
        return _show(uploads.get_upload(session, caller.owner, made.id), at)


@router.post(
    "/{upload_id}/parts",
    operation_id="openai_create_upload_part",
    responses=responses(404, 409, 413, 507),
    dependencies=[STREAMED],
    openapi_extra=describe("data", {}),
)
async def create_part(
    upload_id: UploadId,
    caller: Writer,
    request: Request,
    db: DatabaseDep,
    files: DatasetFilesDep,
) -> PartObject:
    """One part; several may come at once."""
    part = await run_in_threadpool(_expect_part, db, files, caller.owner, upload_id)
    with files.receive_part(caller.owner, upload_id, limit=part.limit) as incoming:
        await receive(request, "data", incoming.write, part.limit)
        await run_in_threadpool(incoming.finish)
        await run_in_threadpool(incoming.publish)
    return PartObject(id=incoming.id, created_at=part.created_at, upload_id=upload_id)


@router.post(
    "/{upload_id}/complete",
    operation_id="openai_complete_upload",
    responses=responses(404, 409, 413, 415, 507),
)
def complete_upload(
    upload_id: UploadId,
    body: CompleteRequest,
    caller: Writer,
    db: DatabaseDep,
    files: DatasetFilesDep,
    audit: AuditDep,
) -> UploadObject:
    """The parts, one after the other, become a file to train on. Asking twice is asking once."""
    with db.reading() as session:
        at = now(session)
        upload = uploads.get_upload(session, caller.owner, upload_id)
        if upload.dataset_id is not None:
            return _show(upload, at, session.get(Dataset, upload.dataset_id))
        uploads.require_open(upload, at)
    with files.receive(caller.owner, limit=upload.bytes) as incoming:
        assemble(
            files.parts(caller.owner, upload_id), body.part_ids, incoming, upload.bytes, body.md5
        )
        received = take(incoming, upload.name, None, key="part_ids")
        with db.transaction() as session:
            read = _complete(session, caller, upload_id, received, audit)
    files.discard_parts(caller.owner, upload_id)
    return read


@router.post(
    "/{upload_id}/cancel", operation_id="openai_cancel_upload", responses=responses(404, 409)
)
def cancel_upload(
    upload_id: UploadId,
    caller: Writer,
    db: DatabaseDep,
    files: DatasetFilesDep,
    audit: AuditDep,
) -> UploadObject:
    """Give it up, and remove its parts."""
    with db.transaction() as session:
        at = now(session)
        read = _show(uploads.cancel_upload(session, caller.owner, upload_id, now=at), at)
        audit.note(session, caller, Action.UPLOAD_CANCELLED, upload_id, now=at)
    files.discard_parts(caller.owner, upload_id)
    return read


@dataclass(frozen=True)
class _Part:
    """What may come of one."""

    limit: int
    """Bytes."""
    created_at: int


def _expect_part(db: Database, files: DatasetFiles, owner: str, upload_id: str) -> _Part:
    """Raises `NotFound`, `Conflict`."""
    with db.reading() as session:
        at = now(session)
        upload = uploads.get_upload(session, owner, upload_id)
        uploads.require_open(upload, at)
    # twice the file: a part whose answer was lost is sent again
    room = 2 * upload.bytes - files.size_of_parts(owner, upload_id)
    return _Part(min(room, upload.bytes), int(at.timestamp()))


def _complete(
    session: Session, caller: Caller, upload_id: str, received: Received, audit: Audit
) -> UploadObject:
    at = now(session)
    upload = uploads.get_upload(session, caller.owner, upload_id, lock=True)
    uploads.require_open(upload, at)  # nobody else has completed it meanwhile
    seconds = upload.lifetime_seconds
    dataset = registry.add_dataset(
        session,
        received,
        owner=caller.owner,
        name=upload.name,
        lifetime=timedelta(seconds=seconds) if seconds else None,
        now=at,
    )
    upload.dataset_id = dataset.id
    said = {"bytes": dataset.bytes, "sha256": dataset.sha256, "upload_id": upload_id}
    audit.note(session, caller, Action.DATASET_CREATED, dataset.id, now=at, **said)
    return _show(upload, at, dataset)


def _show(upload: Upload, at: datetime, dataset: Dataset | None = None) -> UploadObject:
    return UploadObject(
        id=upload.id,
        bytes=upload.bytes,
        created_at=int(upload.created_at.timestamp()),
        expires_at=int(upload.expires_at.timestamp()),
        filename=upload.name,
        status=uploads.status_of(upload, at),
        file=show_file(dataset) if dataset else None,
    )
