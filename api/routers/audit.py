"""The audit log: who did what."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from api.access import requires
from api.deps import DatabaseDep
from api.errors import responses
from api.pages import Limit
from api.strict import StrictRoute
from finlora_core.access.keys import Caller
from finlora_core.access.scopes import Scope
from finlora_core.audit import log
from finlora_core.audit.action import Action
from finlora_core.audit.log import Filters

router = APIRouter(
    prefix="/audit",
    tags=["audit"],
    responses=responses(401, 403, 422, 429, 503),
    route_class=StrictRoute,
)

Admin = Annotated[Caller, requires(Scope.ADMIN)]


class EntryRead(BaseModel):
    id: int = Field(description="The cursor: newer ones have higher ids.")
    number: int | None = Field(
        description="Its place in the chain; null for some seconds, until it is sealed."
    )
    at: datetime
    owner: str = Field(description="Of the key that did it.")
    key_id: str | None = Field(
        description="Null: on the service's own machine.", examples=["4vHq8ZtR2mXa"]
    )
    action: Action
    object_id: str = Field(examples=["run_8f0c1d0c4a8b4e2f9d11"])
    request_id: str | None = Field(examples=["9f86d081884c7d65"])
    details: dict[str, Any]
    seal: str | None = Field(
        description="HMAC-SHA-256 of this entry and the seal before it.",
        examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    )


class EntryPage(BaseModel):
    data: list[EntryRead]
    next_before: int | None = Field(description="Give it as `before` for the next page.")


@router.get("", operation_id="list_audit_entries")
def list_entries(
    caller: Admin,
    db: DatabaseDep,
    owner: Annotated[str | None, Query(description="Only what this one's keys did.")] = None,
    key_id: Annotated[str | None, Query(description="Only what this key did.")] = None,
    action: Annotated[Action | None, Query(description="Only this.")] = None,
    object_id: Annotated[str | None, Query(description="Only what was done to this.")] = None,
    before: Annotated[
        int | None, Query(ge=1, le=2**53 - 1, description="Only ids below this one.")
    ] = None,
    limit: Limit = 50,
) -> EntryPage:
    """Of every owner, the newest first. `finlora audit verify` tells if all of it is there."""
    wanted = Filters(owner=owner, key_id=key_id, action=action, object_id=object_id)
    with db.reading() as session:
        rows = log.list_entries(session, wanted, before=before, limit=limit + 1)
    data = [EntryRead.model_validate(row, from_attributes=True) for row in rows[:limit]]
    return EntryPage(data=data, next_before=data[-1].id if len(rows) > limit else None)
