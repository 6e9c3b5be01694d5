"""Adapters: list what has been trained, download it, move it through its stages."""

from datetime import datetime
from typing import Annotated, Any, Self

from fastapi import APIRouter, Body, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator
from sqlalchemy import Connection, Row

from api.access import requires
from api.audit import AuditDep
from api.deps import DatabaseDep, LooksDep, StoreDep
from api.errors import responses
from api.pages import Cursor, Limit, Name, Variant
from api.published import all_files, one_file
from api.ranges import Content, content_responses, respond
from api.results import ResultRead
from api.strict import StrictRoute
from finlora_core.access.keys import Caller
from finlora_core.access.scopes import Scope
from finlora_core.adapters import registry
from finlora_core.adapters.manifest import File, get_file
from finlora_core.adapters.serving import Listed, Verdict, read_verdicts
from finlora_core.adapters.store import AdapterStore
from finlora_core.audit.action import Action
from finlora_core.db.models import Adapter
from finlora_core.db.session import now
from finlora_core.errors import Invalid, InvalidAdapter
from finlora_core.evaluation import results
from finlora_core.merging.results import merges_of
from finlora_core.playground import bits_of
from finlora_core.runs.config import Line, contradiction
from finlora_core.stages import moves
from finlora_core.stages.moves import Wish
from finlora_core.stages.stage import Stage

router = APIRouter(
    prefix="/adapters",
    tags=["adapters"],
    responses=responses(401, 403, 422, 429, 503),
    route_class=StrictRoute,
)

_VERSION = "Of the adapter called `name`; `variant` too where several variants have that name."

STAGE_EXAMPLES = {
    "staging": {"summary": "To be tried", "value": {"stage": "staging"}},
    "production": {"summary": "By the newest comparison", "value": {"stage": "production"}},
    "override": {
        "summary": "For a reason of your own",
        "value": {"stage": "production", "override": "as good, and half as large"},
    },
}

Reader = Annotated[Caller, requires(Scope.ADAPTERS_READ)]
Writer = Annotated[Caller, requires(Scope.ADAPTERS_WRITE)]
AdapterId = Annotated[str, Path(description="`adp_…`, as the run or the list shows it.")]


class AdapterRead(BaseModel):
    id: str
    run_id: str | None = Field(description="None for one that was imported.")
    name: str
    variant: str = Field(description="The folder it lies in: `8bits_r8_dora`.")
    version: int = Field(description="Counts the adapters of one name and variant from 1.")
    stage: Stage = Field(description="In `production` is at most one of a name.")
    base_model: str
    sha256: str = Field(description="Of adapter_model.safetensors.")
    size: int = Field(description="Bytes of all files.")
    files: list[File]
    created_at: datetime
    verified_at: datetime = Field(description="When its files were last compared with these.")
    damage: str | None = Field(description="What was wrong then: it is not served any more.")


class StageMoveRead(BaseModel):
    """That it has gone from one stage to another, and why."""

    model_config = ConfigDict(from_attributes=True)

    at: datetime
    old: Stage
    new: Stage
    comparison_id: str | None = Field(
        description="With the one whose place it took; it found it better, unless there is an "
        "`override`."
    )
    override: str | None = Field(
        description="Why it was promoted whatever was found.",
        examples=["as good, and half as large"],
    )
    replaced_by: str | None = Field(
        description="Which adapter took its place in production.",
        examples=["adp_0b7d41c2e9f34a6c8d15_1"],
    )


class AdapterDetail(AdapterRead):
    serving: list[Verdict] | None = Field(
        description="Which engines can serve it, and how. Null while its files are damaged or "
        "missing."
    )
    evaluations: list[ResultRead] = Field(
        description="What evaluations have found, the newest first; of rows that were judged "
        "again, the newest result only."
    )
    moves: list[StageMoveRead] = Field(description="Through the stages, the newest first.")
    merges: list[str] = Field(
        description="Merges of it into its base that have succeeded, the newest first.",
        examples=[["merge_8f0c1d0c4a8b4e2f9d11"]],
    )


class StageRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    stage: Stage = Field(description="One step away: candidate - staging - production.")
    comparison_id: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="With which it is shown to be better. Default: the newest one with the "
        "adapter in production.",
    )
    override: Line | None = Field(
        None,
        description="Why it is promoted whatever comparisons say; kept with the adapter.",
        examples=["as good, and half as large"],
    )

    @model_validator(mode="after")
    def _gives_reasons_where_they_count(self) -> Self:
        for key in ("comparison_id", "override"):
            if getattr(self, key) is not None and self.stage is not Stage.PRODUCTION:
                raise contradiction(key, "is for the stage production")
        return self


class AdapterPage(BaseModel):
    data: list[AdapterRead]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page.")


@router.get("", operation_id="list_adapters", responses=responses(404))
def list_adapters(
    caller: Reader,
    db: DatabaseDep,
    name: Name = None,
    variant: Variant = None,
    version: Annotated[int | None, Query(ge=1, le=2**31 - 1, description=_VERSION)] = None,
    base_model: Annotated[str | None, Query(description="Only those for this one.")] = None,
    run_id: Annotated[str | None, Query(description="Only those that this run made.")] = None,
    stage: Annotated[Stage | None, Query(description="Only those in this one.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> AdapterPage:
    """Newest first, page by page; or, with `name` and `version`, that one."""
    if version is not None:
        return _one_version(db, caller, name, variant, version)
    with db.reading() as session:
        page = registry.list_adapters(
            session,
            caller.owner,
            name=name,
            variant=variant,
            base_model=base_model,
            run_id=run_id,
            stage=stage,
            cursor=cursor,
            limit=limit,
        )
    return AdapterPage(data=[_read(row) for row in page.rows], next_cursor=page.next_cursor)


@router.get("/{adapter_id}", operation_id="get_adapter", responses=responses(404))
def get_adapter(
    adapter_id: AdapterId, caller: Reader, db: DatabaseDep, store: StoreDep
) -> AdapterDetail:
    """One adapter with the size and SHA-256 of each of its files, who can serve it, and
    what it was found to be worth."""
    with db.reading() as session:
        adapter = registry.get_adapter(session, caller.owner, adapter_id)
        found = results.newest_of(session, adapter.id)
        history = moves.history(session, adapter.id)
        merges = merges_of(session, adapter.id)
    return AdapterDetail(
        **dict(_read(adapter)),
        serving=_serving(store, adapter),
        evaluations=[ResultRead.model_validate(row) for row in found],
        moves=[StageMoveRead.model_validate(row) for row in history],
        merges=list(merges),
    )


@router.post(
    "/{adapter_id}/stage",
    operation_id="move_adapter",
    responses=responses(400, 404, 409, 410, 413, 415),
)
def move_adapter(
    adapter_id: AdapterId,
    wanted: Annotated[StageRequest, Body(openapi_examples=STAGE_EXAMPLES)],
    caller: Writer,
    db: DatabaseDep,
    audit: AuditDep,
) -> AdapterRead:
    """Move an adapter to another stage. Asking twice is asking once.

    Into production goes one that a stored comparison finds better than the adapter of its name
    that is there, or, where none is, than its base model: else 409 `evidence_lacking`, unless
    `override` says why. The one that was there goes back to staging."""
    wish = Wish(**dict(wanted))
    with db.transaction() as session:
        at = now(session)
        moved = moves.move(session, caller.owner, adapter_id, wish, now=at)
        if moved is not None:
            said = wanted.model_dump(mode="json", exclude_none=True)
            audit.note(session, caller, Action.ADAPTER_MOVED, adapter_id, now=at, **said)
        return _read(registry.get_adapter(session, caller.owner, adapter_id))


@router.head("/{adapter_id}/files/{path}", include_in_schema=False)
@router.get(
    "/{adapter_id}/files/{path}",
    operation_id="get_adapter_file",
    response_class=Response,
    responses=content_responses("application/octet-stream"),
)
async def get_adapter_file(
    adapter_id: AdapterId,
    path: Annotated[str, Path(description="As listed in the adapter's `files`.")],
    caller: Reader,
    request: Request,
    looks: LooksDep,
    store: StoreDep,
) -> Response:
    """One file. Its ETag is its SHA-256; `Range`, `If-Range` and `If-None-Match` work."""
    adapter = await _published(looks, caller, adapter_id)
    file = get_file(adapter.files, path)
    return await respond(request, lambda: one_file(store, adapter.id, file))


@router.head("/{adapter_id}/download", include_in_schema=False)
@router.get(
    "/{adapter_id}/download",
    operation_id="download_adapter",
    response_class=Response,
    responses=content_responses("application/x-tar"),
)
async def download_adapter(
    adapter_id: AdapterId, caller: Reader, request: Request, looks: LooksDep, store: StoreDep
) -> Response:
    """All files as one tar archive with a folder named like the adapter in it.

    The same bytes each time, so that `Range` works here too."""
    adapter = await _published(looks, caller, adapter_id)
    top = f"{adapter.name}-v{adapter.version}"

    def find() -> Content:
        return all_files(store, adapter.id, adapter.files, top=top, at=adapter.created_at)

    return await respond(request, find)


async def _published(looks: LooksDep, caller: Caller, adapter_id: str) -> Row[Any]:
    def look(connection: Connection) -> Row[Any]:
        return registry.find_published(connection, caller.owner, adapter_id)

    return await looks.glance(look)


def _one_version(
    db: DatabaseDep, caller: Caller, name: str | None, variant: str | None, version: int
) -> AdapterPage:
    if name is None:
        raise Invalid("`version` counts the adapters of one name: give `name` too")
    with db.reading() as session:
        adapter = registry.find_version(session, caller.owner, name, variant, version)
    return AdapterPage(data=[_read(adapter)], next_cursor=None)


def _serving(store: AdapterStore, adapter: Adapter) -> list[Verdict] | None:
    """Judged anew each time: the table of the engines changes with the service."""
    listed = Listed(
        id=adapter.id,
        name=adapter.name,
        version=adapter.version,
        base_model=adapter.base_model,
        quant_bits=bits_of(adapter.variant),
    )
    if adapter.damage is not None:
        return None
    try:
        return list(read_verdicts(store.folder(adapter.id), listed))
    except (InvalidAdapter, OSError):
        return None


def _read(adapter: Adapter) -> AdapterRead:
    files = [File.model_validate(file) for file in adapter.files]
    return AdapterRead(
        id=adapter.id,
        run_id=adapter.run_id,
        name=adapter.name,
        variant=adapter.variant,
        version=adapter.version,
        stage=adapter.stage,
        base_model=adapter.base_model,
        sha256=adapter.sha256,
        size=sum(file.size for file in files),
        files=files,
        created_at=adapter.created_at,
        verified_at=adapter.verified_at,
        damage=adapter.damage,
    )
