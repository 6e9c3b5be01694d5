"""What a run leaves for people to read: events, metrics, log. In pages, or as they come."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Response
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from api.accept import STREAM, prefers_stream
from api.deps import DatabaseDep, HubDep
from api.errors import responses
from api.hub import Feed, Hub, Message
from api.pages import Limit
from api.routers.runs import Reader, RunId
from api.strict import StrictRoute
from finlora_core.db.models import Event, MetricPoint, Run
from finlora_core.runs import queries
from finlora_core.runs.event_type import EventType, Level
from finlora_core.runs.events import NEWEST_EVENT, read_events
from finlora_core.runs.journal import LOG_END, NEWEST_METRIC, read_log, read_metrics

router = APIRouter(
    prefix="/runs",
    tags=["runs"],
    responses=responses(401, 403, 422, 429, 503),
    route_class=StrictRoute,
)

MAX_LOG_CHARACTERS = 1024 * 1024
STREAMED_LOG_CHARACTERS = 64 * 1024
STREAMED_ROWS = 500
"""In one message, and in one page of a stream."""

LAST_ID = 2**63 - 1
LAST_OFFSET = 2**31 - 1


class EventRead(BaseModel):
    """One thing that has happened to the run."""

    id: int = Field(description="Grows within a run; the cursor.")
    at: datetime
    type: EventType
    level: Level
    message: str = Field(description="For people.")
    data: dict[str, Any] = Field(
        description="For programs; docs/api.md lists each type's keys.",
        examples=[{"attempt": 1, "worker": "gpu-box:4121:…"}],
    )


class Events(BaseModel):
    data: list[EventRead]
    next_after: int = Field(description="Give it as `after` to get only newer events.")


class Point(BaseModel):
    """What the trainer logged at one step."""

    step: int
    attempt: int
    values: dict[str, float] = Field(examples=[{"loss": 0.52, "learning_rate": 1e-4}])


class Points(BaseModel):
    data: list[Point]
    next_after: int = Field(description="Give it as `after` to get only newer points.")


class LogPiece(BaseModel):
    """Some of the log, as it is streamed."""

    text: str
    next_offset: int = Field(description="Where the next piece starts, in characters.")


def _wants_stream(otherwise: str) -> Callable[[str], bool]:
    def wants(accept: Annotated[str, Header(include_in_schema=False)] = "*/*") -> bool:
        return prefers_stream(accept, otherwise)

    return wants


AsStream = Annotated[bool, Depends(_wants_stream("application/json"))]
AsStreamNotText = Annotated[bool, Depends(_wants_stream("text/plain"))]
After = Annotated[int, Query(ge=0, le=LAST_ID, description="`next_after` of the page before.")]
LastEventId = Annotated[
    int | None,
    Header(ge=0, le=LAST_ID, description="Of a stream: the last id that arrived; beats `after`."),
]


NEXT_OFFSET = {"Next-Offset": "Where to go on, in characters; not of a stream."}


def streamed(example: str, **headers: str) -> dict[int | str, dict[str, Any]]:
    """For a route's OpenAPI entry: the other content type of its answer, and its headers."""
    described = {
        "schema": {
            "type": "string",
            "description": "Server-sent events. Each has an `id` to go on from (`Last-Event-ID`)"
            " and JSON as data; the last one, `end`, says in which status the run has ended.",
        },
        "example": f'retry: 2000\n\n{example}\n\nevent: end\ndata: {{"status": "succeeded"}}\n\n',
    }
    sent = {
        name: {"description": what, "schema": {"type": "string"}} for name, what in headers.items()
    }
    return {200: {"content": {STREAM: described}, "headers": sent}}


EVENTS_ROUTE: dict[str, Any] = {
    "response_model": Events,
    "responses": responses(404)
    | streamed('data: {"id": 12, "type": "started", "level": "info", …}\nid: 12'),
}

LOG_ROUTE: dict[str, Any] = {
    "response_class": PlainTextResponse,
    "responses": responses(404)
    | streamed('data: {"text": "Loading the model\\n", "next_offset": 18}\nid: 18', **NEXT_OFFSET),
}

Offset = Annotated[int, Query(ge=0, le=LAST_OFFSET, description="In characters.")]
LastOffset = Annotated[
    int | None, Header(ge=0, le=LAST_OFFSET, description="As for events; beats `offset`.")
]


@router.get("/{run_id}/events", operation_id="list_run_events", **EVENTS_ROUTE)
def list_run_events(
    run_id: RunId,
    caller: Reader,
    db: DatabaseDep,
    hub: HubDep,
    as_stream: AsStream,
    after: After = 0,
    limit: Limit = 1000,
    last_event_id: LastEventId = None,
) -> Events | Response:
    """What has happened to the run, the oldest first; as `text/event-stream`, as it happens."""
    with db.reading() as session:
        run = queries.get_run(session, caller.owner, run_id)
        return events_of(session, hub, run, as_stream, start_of(last_event_id, after), limit)


@router.get(
    "/{run_id}/metrics",
    operation_id="get_run_metrics",
    response_model=Points,
    responses=responses(404)
    | streamed('data: {"step": 2, "attempt": 1, "values": {"loss": 0.52}}\nid: 7'),
)
def get_run_metrics(
    run_id: RunId,
    caller: Reader,
    db: DatabaseDep,
    hub: HubDep,
    as_stream: AsStream,
    after: After = 0,
    limit: Limit = 1000,
    last_event_id: LastEventId = None,
) -> Points | Response:
    """The points logged so far: loss, learning rate, gradient norm, evaluation loss; as
    `text/event-stream`, as they are logged."""
    with db.reading() as session:
        queries.get_run(session, caller.owner, run_id)
        rows = [] if as_stream else read_metrics(session, run_id, after=after, limit=limit)
    if as_stream:
        return hub.respond(METRICS, run_id, after=start_of(last_event_id, after))
    return Points(data=[_point(row) for row in rows], next_after=rows[-1].id if rows else after)


@router.get("/{run_id}/logs", operation_id="get_run_logs", **LOG_ROUTE)
def get_run_logs(
    run_id: RunId,
    caller: Reader,
    db: DatabaseDep,
    hub: HubDep,
    as_stream: AsStreamNotText,
    offset: Offset = 0,
    last_event_id: LastOffset = None,
) -> Response:
    """The log from `offset` on, as text; the header `Next-Offset` says where to go on. As
    `text/event-stream`, as it is written."""
    with db.reading() as session:
        run = queries.get_run(session, caller.owner, run_id)
        return log_of(session, hub, run, as_stream, start_of(last_event_id, offset))


def events_of(
    session: Session, hub: Hub, run: Run, as_stream: bool, after: int, limit: int
) -> Events | Response:
    if as_stream:
        return hub.respond(EVENTS, run.id, after=after)
    rows = read_events(session, run.id, after=after, limit=limit)
    return Events(data=[_event(row) for row in rows], next_after=rows[-1].id if rows else after)


def log_of(session: Session, hub: Hub, run: Run, as_stream: bool, offset: int) -> Response:
    if as_stream:
        return hub.respond(LOG, run.id, after=offset)
    text, end = read_log(session, run.id, offset=offset, limit=MAX_LOG_CHARACTERS)
    return PlainTextResponse(text, headers={"Next-Offset": str(end)})


def start_of(last_event_id: int | None, after: int) -> int:
    return after if last_event_id is None else last_event_id


def _event(row: Event) -> EventRead:
    return EventRead.model_validate(row, from_attributes=True)


def _point(row: MetricPoint) -> Point:
    return Point.model_validate(row, from_attributes=True)


def _event_messages(session: Session, run_id: str, after: int) -> Sequence[Message]:
    rows = read_events(session, run_id, after=after, limit=STREAMED_ROWS)
    return [Message.of(row.id - 1, row.id, _event(row).model_dump_json()) for row in rows]


def _metric_messages(session: Session, run_id: str, after: int) -> Sequence[Message]:
    rows = read_metrics(session, run_id, after=after, limit=STREAMED_ROWS)
    return [Message.of(row.id - 1, row.id, _point(row).model_dump_json()) for row in rows]


def _log_messages(session: Session, run_id: str, after: int) -> Sequence[Message]:
    text, end = read_log(session, run_id, offset=after, limit=STREAMED_LOG_CHARACTERS)
    piece = LogPiece(text=text, next_offset=end)
    return [Message.of(after, end, piece.model_dump_json())] if text else []


EVENTS = Feed(newest=NEWEST_EVENT, read=_event_messages)
METRICS = Feed(newest=NEWEST_METRIC, read=_metric_messages)
LOG = Feed(newest=LOG_END, read=_log_messages)
