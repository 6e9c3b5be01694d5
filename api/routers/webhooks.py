"""Webhooks: be told when a run has ended."""

from datetime import datetime
from typing import Annotated, Literal, get_args

from fastapi import APIRouter, Body, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from api.access import requires
from api.audit import AuditDep
from api.deps import DatabaseDep, SettingsDep
from api.errors import responses
from api.idempotency import OnceDep
from api.pages import Cursor, Limit
from api.strict import StrictRoute
from finlora_core.access.keys import Caller
from finlora_core.access.scopes import Scope
from finlora_core.audit.action import Action
from finlora_core.db.models import Delivery, Webhook
from finlora_core.db.session import now
from finlora_core.webhooks import registry, signing
from finlora_core.webhooks.connect import require_url

router = APIRouter(
    prefix="/webhooks",
    tags=["webhooks"],
    responses=responses(401, 403, 422, 429, 503),
    route_class=StrictRoute,
)

Reader = Annotated[Caller, requires(Scope.RUNS_READ)]
Writer = Annotated[Caller, requires(Scope.RUNS_WRITE)]
WebhookId = Annotated[str, Path(description="`wh_…`, as POST /webhooks answered it.")]
EventName = Literal[
    "fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"
]
EXAMPLE = {"url": "https://hooks.example/finlora", "events": ["fine_tuning.job.succeeded"]}


class WebhookRequest(BaseModel):
    model_config = ConfigDict(extra="forbid")

    url: str = Field(max_length=2048, description="https://; public, or allowed by the operator.")
    events: list[EventName] = Field(
        list(get_args(EventName)), min_length=1, description="Default: every way a run may end."
    )


class WebhookRead(BaseModel):
    id: str
    url: str = Field(examples=["https://hooks.example/finlora"])
    events: list[EventName]
    created_at: datetime


class WebhookMade(WebhookRead):
    secret: str = Field(
        description="`whsec_…`: what messages are signed with.", examples=["whsec_…"]
    )


class WebhookPage(BaseModel):
    data: list[WebhookRead]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page.")


class DeliveryRead(BaseModel):
    id: str = Field(description="Sent as `webhook-id`, the same at each try.")
    run_id: str
    event: EventName
    created_at: datetime
    tries: int
    next_at: datetime | None = Field(description="When it is tried again; null when it is over.")
    delivered_at: datetime | None
    status: int | None = Field(description="Of the last answer.")
    error: str | None = Field(
        description="Why the last try failed.", examples=["the answer was 503"]
    )


class DeliveryPage(BaseModel):
    data: list[DeliveryRead]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page.")


@router.post(
    "",
    status_code=201,
    operation_id="create_webhook",
    responses=responses(400, 409, 413, 415),
)
def create_webhook(
    wanted: Annotated[WebhookRequest, Body(openapi_examples={"a webhook": {"value": EXAMPLE}})],
    caller: Writer,
    request: Request,
    response: Response,
    settings: SettingsDep,
    db: DatabaseDep,
    once: OnceDep,
    audit: AuditDep,
) -> WebhookMade:
    """Say where to send a signed message when a run of yours has ended."""
    require_url(wanted.url, settings.webhook_networks)
    with db.transaction() as session:
        at = now(session)

        def create() -> str:
            id = registry.create(session, caller.owner, wanted.url, wanted.events, now=at).id
            audit.note(session, caller, Action.WEBHOOK_CREATED, id, now=at)
            return id

        made = once.make(session, caller.owner, create, now=at)
        read = _read(registry.get(session, caller.owner, made.id))
    response.headers["Location"] = f"/webhooks/{read.id}"
    secret = signing.secret_of(request.app.state.pepper, read.id)
    return WebhookMade(**read.model_dump(), secret=secret)


@router.get("", operation_id="list_webhooks")
def list_webhooks(
    caller: Reader, db: DatabaseDep, cursor: Cursor = None, limit: Limit = 50
) -> WebhookPage:
    """Newest first, page by page."""
    with db.reading() as session:
        page = registry.list_all(session, caller.owner, cursor=cursor, limit=limit)
    return WebhookPage(data=[_read(row) for row in page.rows], next_cursor=page.next_cursor)


@router.get("/{webhook_id}", operation_id="get_webhook", responses=responses(404))
def get_webhook(webhook_id: WebhookId, caller: Reader, db: DatabaseDep) -> WebhookRead:
    """One webhook, without its secret."""
    with db.reading() as session:
        return _read(registry.get(session, caller.owner, webhook_id))


@router.delete(
    "/{webhook_id}", status_code=204, operation_id="delete_webhook", responses=responses(404)
)
def delete_webhook(
    webhook_id: WebhookId, caller: Writer, db: DatabaseDep, audit: AuditDep
) -> None:
    """Send it nothing any more; what it was told is forgotten."""
    with db.transaction() as session:
        registry.delete(session, caller.owner, webhook_id)
        audit.note(session, caller, Action.WEBHOOK_DELETED, webhook_id, now=now(session))


@router.get("/{webhook_id}/deliveries", operation_id="list_deliveries", responses=responses(404))
def list_deliveries(
    webhook_id: WebhookId,
    caller: Reader,
    db: DatabaseDep,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> DeliveryPage:
    """What it was told, newest first, and what became of each message."""
    with db.reading() as session:
        page = registry.list_deliveries(
            session, caller.owner, webhook_id, cursor=cursor, limit=limit
        )
    data = [_read_delivery(row) for row in page.rows]
    return DeliveryPage(data=data, next_cursor=page.next_cursor)


@router.post(
    "/{webhook_id}/deliveries/{delivery_id}/redeliver",
    status_code=202,
    operation_id="redeliver",
    responses=responses(404),
)
def redeliver(
    webhook_id: WebhookId,
    delivery_id: Annotated[str, Path(description="`evt_…`, as the list shows it.")],
    caller: Writer,
    db: DatabaseDep,
    audit: AuditDep,
) -> DeliveryRead:
    """Send a message again, with the id and the body that it had."""
    with db.transaction() as session:
        at = now(session)
        audit.note(session, caller, Action.WEBHOOK_REDELIVERED, delivery_id, now=at)
        return _read_delivery(
            registry.redeliver(session, caller.owner, webhook_id, delivery_id, now=at)
        )


def _read(webhook: Webhook) -> WebhookRead:
    return WebhookRead.model_validate(webhook, from_attributes=True)


def _read_delivery(delivery: Delivery) -> DeliveryRead:
    return DeliveryRead.model_validate(delivery, from_attributes=True)
