"""API keys: make them, list them, revoke them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Body, Path, Request
from pydantic import BaseModel, ConfigDict, Field, field_validator
from sqlalchemy.orm import Session

from api.access import Doorman, requires
from api.audit import AuditDep
from api.deps import DatabaseDep, SettingsDep
from api.errors import responses
from api.pages import Cursor, Limit
from api.strict import StrictRoute
from finlora_core.access import keys
from finlora_core.access.keys import Caller
from finlora_core.access.owners import DEFAULT_OWNER
from finlora_core.access.quota import Quota
from finlora_core.access.scopes import OWN, Scope
from finlora_core.audit.action import Action
from finlora_core.db.models import ApiKey
from finlora_core.db.session import now
from finlora_core.errors import InvalidRequest, KeyProblem
from finlora_core.quotas import Use, use_of
from finlora_core.runs.config import RunName
from finlora_core.settings import Settings

MOST_GPU_HOURS = 1_000_000.0
"""A day, of more GPUs than anybody has."""

router = APIRouter(
    prefix="/keys",
    tags=["keys"],
    responses=responses(401, 403, 422, 429, 503),
    route_class=StrictRoute,
)

Admin = Annotated[Caller, requires(Scope.ADMIN)]
NOT_KEPT = {"Cache-Control": {"description": "`no-store`", "schema": {"type": "string"}}}
NOT_ONCE = KeyProblem(
    "Idempotency-Key",
    "unknown_key",
    "cannot be taken here: the key itself is kept nowhere, so no second answer could show it. "
    "Revoke the one whose answer was lost, and make another",
)
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
    max_queued_runs: int | None = Field(
        None,
        ge=0,
        le=2**31 - 1,
        description="Refuse a run while its owner has so many queued or paused. This and the "
        "next two: null for the server's default.",
        examples=[100],
    )
    max_stored_bytes: int | None = Field(
        None,
        ge=0,
        le=2**53 - 1,
        description="Refuse an upload past so many of its owner's, merged models counted; and a "
        "merge once there are so many.",
        examples=[10_000_000_000],
    )
    gpu_hours_per_day: float | None = Field(
        None,
        ge=0,
        le=MOST_GPU_HOURS,
        allow_inf_nan=False,
        description="Refuse a run once its owner's have used so many in 24 hours.",
        examples=[48],
    )

    @field_validator(
        "expires_days", "max_queued_runs", "max_stored_bytes", "gpu_hours_per_day", mode="before"
    )
    @classmethod
    def _is_number(cls, value: object) -> object:
        """As JSON has them: 2.0 is a whole number, true is none."""
        if isinstance(value, bool):
            raise ValueError("must be a number")
        return value

    @property
    def quota(self) -> Quota:
        return Quota(
            max_queued_runs=self.max_queued_runs,
            max_stored_bytes=self.max_stored_bytes,
            gpu_hours_per_day=self.gpu_hours_per_day,
        )


class QuotaRead(BaseModel):
    """Null: any amount."""

    max_queued_runs: int | None
    max_stored_bytes: int | None
    gpu_hours_per_day: float | None


class UseRead(BaseModel):
    """What its owner has, whichever key it came with."""

    queued_runs: int = Field(description="Queued or paused.")
    stored_bytes: int = Field(
        description="Of datasets, of uploads that are not complete yet, and of merged models."
    )
    gpu_hours: float = Field(description="In the 24 hours before now.")


class KeyRead(BaseModel):
    id: str
    name: str
    owner: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="To the minute.")
    quota: QuotaRead = Field(description="The key's own, or where it has none the server's.")
    use: UseRead


class KeyMade(KeyRead):
    key: str = Field(description="The key itself. It is shown this once; keep it.")


class KeyPage(BaseModel):
    data: list[KeyRead]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page.")


@router.post(
    "",
    status_code=201,
    operation_id="create_key",
    responses={**responses(400, 413, 415), 201: {"headers": NOT_KEPT}},
)
def create_key(
    wanted: Annotated[KeyRequest, Body(openapi_examples={"for CI": {"value": EXAMPLE}})],
    caller: Admin,
    request: Request,
    db: DatabaseDep,
    settings: SettingsDep,
    audit: AuditDep,
) -> KeyMade:
    """Make a key for an owner. It can be given no scope that your own lacks."""
    if "Idempotency-Key" in request.headers:
        raise InvalidRequest(NOT_ONCE)
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
            quota=wanted.quota,
        )
        audit.note(session, caller, Action.KEY_CREATED, key.id, now=at, **keys.said_of(key))
        (read,) = _read(session, [key], settings, at)
    return KeyMade(**read.model_dump(), key=text)


@router.get("", operation_id="list_keys")
def list_keys(
    caller: Admin,
    db: DatabaseDep,
    settings: SettingsDep,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> KeyPage:
    """Of every owner, the newest first; the keys themselves are not kept anywhere."""
    with db.reading() as session:
        page = keys.list_keys(session, cursor=cursor, limit=limit)
        data = _read(session, page.rows, settings, now(session))
    return KeyPage(data=data, next_cursor=page.next_cursor)


@router.delete("/{key_id}", operation_id="revoke_key", responses=responses(404))
def revoke_key(
    key_id: Annotated[str, Path(description="As POST /keys answered it.")],
    caller: Admin,
    request: Request,
    db: DatabaseDep,
    settings: SettingsDep,
    audit: AuditDep,
) -> KeyRead:
    """From now on, and in other processes within seconds, it opens nothing."""
    with db.transaction() as session:
        at = now(session)
        key = keys.revoke(session, key_id, now=at)
        audit.note(session, caller, Action.KEY_REVOKED, key_id, now=at)
        (read,) = _read(session, [key], settings, at)
    doorman: Doorman = request.app.state.doorman
    doorman.forget(key_id)
    return read


def _read(
    session: Session, rows: Sequence[ApiKey], settings: Settings, at: datetime
) -> list[KeyRead]:
    default = Quota.of(settings)
    uses = {owner: use_of(session, owner, now=at) for owner in {key.owner for key in rows}}
    return [_show(key, keys.quota_of(key).or_else(default), uses[key.owner]) for key in rows]


def _show(key: ApiKey, quota: Quota, use: Use) -> KeyRead:
    own = {name: getattr(key, name) for name in KeyRead.model_fields if hasattr(key, name)}
    return KeyRead(**own, quota=QuotaRead(**vars(quota)), use=UseRead(**vars(use)))
