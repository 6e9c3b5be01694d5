"""Adapters: list what has been trained, download it."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Response
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, Field

from api.deps import DatabaseDep, StoreDep
from api.errors import responses
from finlora_core.adapters import archive, registry
from finlora_core.adapters.manifest import File
from finlora_core.db.models import Adapter

router = APIRouter(prefix="/adapters", tags=["adapters"], responses=responses(422, 503))

AdapterId = Annotated[str, Path(description="`adp_…`, as the run or the list shows it.")]


class AdapterRead(BaseModel):
    id: str
    run_id: str
    name: str
    variant: str = Field(description="The folder it lies in: `8bits_r8_dora`.")
    version: int = Field(description="Counts the adapters of one name and variant from 1.")
    base_model: str
    sha256: str = Field(description="Of adapter_model.safetensors.")
    size: int = Field(description="Bytes of all files.")
    files: list[File]
    created_at: datetime


class AdapterPage(BaseModel):
    data: list[AdapterRead]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page.")


@router.get("", operation_id="list_adapters")
def list_adapters(
    db: DatabaseDep,
    name: str | None = None,
    variant: str | None = None,
    base_model: str | None = None,
    run_id: str | None = None,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> AdapterPage:
    """Newest first, page by page."""
    with db.reading() as session:
        page = registry.list_adapters(
            session,
            name=name,
            variant=variant,
            base_model=base_model,
            run_id=run_id,
            cursor=cursor,
            limit=limit,
        )
    return AdapterPage(data=[_read(row) for row in page.rows], next_cursor=page.next_cursor)


@router.get("/{adapter_id}", operation_id="get_adapter", responses=responses(404))
def get_adapter(adapter_id: AdapterId, db: DatabaseDep) -> AdapterRead:
    """One adapter with the size and SHA-256 of each of its files."""
    return _read(_find(db, adapter_id))


@router.head("/{adapter_id}/files/{path}", include_in_schema=False)
@router.get(
    "/{adapter_id}/files/{path}",
    operation_id="get_adapter_file",
    response_class=FileResponse,
    responses=responses(404, 410),
)
def get_adapter_file(
    adapter_id: AdapterId,
    path: Annotated[str, Path(description="As listed in the adapter's `files`.")],
    db: DatabaseDep,
    store: StoreDep,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """One file. Its ETag is its SHA-256; `Range` and `If-None-Match` work."""
    file = registry.get_file(_find(db, adapter_id), path)
    folder = store.require(adapter_id, [file])
    etag = f'"{file.sha256}"'
    if if_none_match is not None and etag in if_none_match:
        return Response(status_code=304, headers={"ETag": etag})
    return FileResponse(
        folder / file.path,
        headers={"ETag": etag},
        filename=file.path,
        media_type="application/octet-stream",
    )


@router.get(
    "/{adapter_id}/download",
    operation_id="download_adapter",
    response_class=StreamingResponse,
    responses={200: {"content": {"application/x-tar": {}}}, **responses(404, 410)},
)
def download_adapter(adapter_id: AdapterId, db: DatabaseDep, store: StoreDep) -> Response:
    """All files as one tar archive with a folder named like the adapter in it."""
    adapter = _find(db, adapter_id)
    files = [File.model_validate(file) for file in adapter.files]
    folder = store.require(adapter_id, files)
    top = f"{adapter.name}-v{adapter.version}"
    return StreamingResponse(
        archive.stream(folder, files, top=top, at=adapter.created_at),
        media_type="application/x-tar",
        headers={
            "Content-Length": str(archive.size(files, top=top)),
            "Content-Disposition": f'attachment; filename="{top}.tar"',
        },
    )


def _find(db: DatabaseDep, adapter_id: str) -> Adapter:
    with db.reading() as session:
        return registry.get_adapter(session, adapter_id)


def _read(adapter: Adapter) -> AdapterRead:
    files = [File.model_validate(file) for file in adapter.files]
    return AdapterRead(
        id=adapter.id,
        run_id=adapter.run_id,
        name=adapter.name,
        variant=adapter.variant,
        version=adapter.version,
        base_model=adapter.base_model,
        sha256=adapter.sha256,
        size=sum(file.size for file in files),
        files=files,
        created_at=adapter.created_at,
    )
