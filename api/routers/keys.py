"""API keys: make them, list them, revoke them."""

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Body, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api.access import Doorman, requires
from api.deps import DatabaseDep
from api.errors import responses
from api.pages import Cursor, Limit
from finlora_core.access import keys
from finlora_core.access.keys import Caller
from finlora_core.access.owners import DEFAULT_OWNER
from finlora_core.access.scopes import OWN, Scope
from finlora_core.db.models import ApiKey
from finlora_core.db.session import now
from finlora_core.runs.config import RunName

router = APIRouter(prefix="/keys", tags=["keys"], responses=responses(401, 403, 422, 429, 503))

Admin = Annotated[Caller, requires(Scope.ADMIN)]
NOT_KEPT = {"Cache-Control": {"description": "`no-store`", "schema": {"type": "string"}}}
EXAMPLE = {"name": "ci", "owner": "research", "scopes": ["runs:read", "runs:write"]}


class KeyRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: RunName = Field(description="For people.", examples=["ci"])
    owner: RunName = Field(
        DEFAULT_OWNER, description="Whose runs, datasets and adapters it opens."
    )
    scopes: list[Scope] = Field(
        sorted(OWN), min_length=1, description="What it may be used for. Default: all but `admin`."
    )
    expires_days: float | None = Field(None, gt=0, le=36500, allow_inf_nan=False)


class KeyRead(BaseModel):
    id: str
    name: str
    owner: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute.")


class KeyMade(KeyRead):
    key: str = Field(description="The key itself. It is shown this once; keep it.")


class KeyPage(BaseModel):
    data: list[KeyRead]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page.")


@router.post(
    "",
    status_code=201,
    operation_id="create_key",
    responses={**responses(400), 201: {"headers": NOT_KEPT}},
)
def create_key(
    wanted: Annotated[KeyRequest, Body(openapi_examples={"for CI": {"value": EXAMPLE}})],
    caller: Admin,
    request: Request,
    response: Response,
    db: DatabaseDep,
) -> KeyMade:
    """Make a key for an owner. It can be given no scope that your own lacks."""
    for scope in wanted.scopes:
        caller.require(scope)
    with db.transaction() as session:
        at = now(session)
        lasts = None if wanted.expires_days is None else timedelta(days=wanted.expires_days)
        key, text = keys.create(
            session,
            request.app.state.pepper,
            name=wanted.name,
            owner=wanted.owner,
            scopes=wanted.scopes,
            now=at,
            expires_at=at + lasts if lasts else None,
        )
    response.headers["Cache-Control"] = "no-store"
    return KeyMade(**_read(key).model_dump(), key=text)


@router.get("", operation_id="list_keys")
def list_keys(
    caller: Admin,
    db: DatabaseDep,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> KeyPage:
    """Of every owner, the newest first; the keys themselves are not kept anywhere."""
    with db.reading() as session:
        page = keys.list_keys(session, cursor=cursor, limit=limit)
    return KeyPage(data=[_read(key) for key in page.rows], next_cursor=page.next_cursor)


@router.delete("/{key_id}", operation_id="revoke_key", responses=responses(404))
def revoke_key(
    key_id: Annotated[str, Path(description="As POST /keys answered it.")],
    caller: Admin,
    request: Request,
    db: DatabaseDep,
) -> KeyRead:
    """From now on, and in other processes within seconds, it opens nothing."""
    with db.transaction() as session:
        key = keys.revoke(session, key_id, now=now(session))
    doorman: Doorman = request.app.state.doorman
    doorman.forget(key_id)
    return _read(key)


def _read(key: ApiKey) -> KeyRead:
    return KeyRead.model_validate(key, from_attributes=True)
