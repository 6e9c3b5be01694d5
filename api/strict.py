"""What every route asks of a request before it looks at it.

Parameters of the query that the route knows, each once and as text; a body of JSON that is one,
of a bounded size, in time. A route that takes a body of any size says `STREAMED`.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from email.message import Message as Headers
from typing import Any

from fastapi import Depends, Request, Response
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Form, Query
from fastapi.routing import APIRoute
from starlette.datastructures import QueryParams
from starlette.types import Message, Receive

from api.access import admit
from finlora_core.errors import (
    BodyTooLarge,
    BodyTooSlow,
    InvalidJSON,
    InvalidRequest,
    KeyProblem,
    UnsupportedMedia,
)
from finlora_core.runs.config import explain
from finlora_core.strict_json import MAX_PROBLEMS, is_keepable, read_body, shown

MAX_BODY = 1024 * 1024
"""Bytes."""

BODY_SECONDS = 30.0
"""A body comes within this time; of one that is streamed, each piece."""

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


async def _streamed() -> None:
    """Does nothing: it stands in the list of a route's dependencies."""


STREAMED = Depends(_streamed)
"""Of a route that reads its body piece by piece, with limits of its own."""


class StrictRoute(APIRoute):
    """The `route_class` of every router: a test asks each route of the OpenAPI document."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()
        dependant = self.dependant
        names = [
            field.alias
            for field in get_flat_params(dependant)
            if isinstance(field.field_info, Query)
        ]
        limit = None if STREAMED in self.dependencies else MAX_BODY
        body = self.body_field
        takes_json = body is not None and not isinstance(body.field_info, Form)

        async def handle_strictly(request: Request) -> Response:
            problems = list(_query_problems(request.query_params, names))
            if problems or body is not None:
                await admit(request, dependant)
            if problems:
                raise InvalidRequest(*problems[:MAX_PROBLEMS])
            strict = StrictRequest(request.scope, _Body(request, limit))
            if takes_json:
                await strict.read_json()
            return await handle(strict)

        return handle_strictly


class StrictRequest(Request):
    """A request whose JSON has been read before FastAPI asks for it."""

    async def read_json(self) -> None:
        """Raises `InvalidJSON`, `InvalidRequest`, `UnsupportedMedia` and what `_Body` raises."""
        if not int(self.headers.get("content-length", 0)) and not self._is_chunked:
            raise InvalidJSON("the body is empty")
        _require_json(self.headers.get("content-type", ""))
        self._read = read_body(await self.body())

    @property
    def _is_chunked(self) -> bool:
        return "transfer-encoding" in self.headers

    async def json(self) -> Any:
        return self._read


class _Body:
    """What a server gives as `receive`, with a limit in bytes, in time and in encodings."""

    def __init__(self, request: Request, limit: int | None) -> None:
        self._receive: Receive = request.receive
        self._headers = request.headers
        self._limit = limit
        self._size = 0
        self._until: float | None = None
        self._is_whole = False

    async def __call__(self) -> Message:
        """Raises `BodyTooLarge`, before reading where the client says how much it sends,
        `BodyTooSlow` and `UnsupportedMedia`."""
        if self._is_whole:  # what comes now is the news that the client has gone
            return await self._receive()
        if self._until is None:
            self._check_headers()
        message = await self._in_time()
        self._size += len(message.get("body", b""))
        self._require_fits(self._size)
        self._is_whole = not message.get("more_body", False)
        return message

    def _check_headers(self) -> None:
        if self._headers.get("content-encoding", "identity").lower() != "identity":
            raise UnsupportedMedia("send the body as it is, without a Content-Encoding")
        self._require_fits(int(self._headers.get("content-length", 0)))

    async def _in_time(self) -> Message:
        now = asyncio.get_running_loop().time()
        if self._until is None or self._limit is None:
            self._until = now + BODY_SECONDS
        try:
            async with asyncio.timeout_at(self._until):
                message = await self._receive()
        except TimeoutError:
            raise BodyTooSlow(f"the body did not come within {BODY_SECONDS:g} s") from None
        return message

    def _require_fits(self, size: int) -> None:
        if self._limit is not None and size > self._limit:
            raise BodyTooLarge(f"the body may have {self._limit} bytes")


def _require_json(content_type: str) -> None:
    """A browser sends no JSON to another site without asking first, as other types it does."""
    if content_type == "application/json":
        return  # what most send
    headers = Headers()
    headers["Content-Type"] = content_type
    is_json = headers.get_content_subtype().split("+")[-1] == "json"
    charset = str(headers.get_param("charset", "utf-8")).lower()
    if headers.get_content_maintype() != "application" or not is_json or charset != "utf-8":
        raise UnsupportedMedia("send the body as JSON in UTF-8, Content-Type: application/json")


def _query_problems(given: QueryParams, known: list[str]) -> Iterator[KeyProblem]:
    counts = Counter(key for key, _ in given.multi_items())
    unknown = [key for key in counts if key not in known][:MAX_PROBLEMS]
    yield from explain(
        ({"type": "extra_forbidden", "loc": (shown(key),)} for key in unknown), known
    )
    for key in known:
        if counts[key] > 1:
            yield KeyProblem(key, "repeated_key", "stands twice")
        elif not is_keepable(value := given.get(key, "")) or "\N{REPLACEMENT CHARACTER}" in value:
            yield KeyProblem(key, "invalid_value", "must be text in UTF-8, without NUL")
