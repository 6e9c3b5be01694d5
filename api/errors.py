"""The one place where errors become HTTP: RFC 9457 `application/problem+json`.

Never a stack trace, never an echo of what was sent: that may be a secret.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from finlora_core.errors import (
    BodyTooLarge,
    BodyTooSlow,
    Conflict,
    FinLoRAError,
    Forbidden,
    Gone,
    InsufficientStorage,
    Invalid,
    InvalidRequest,
    KeyProblem,
    MalformedBody,
    NotFound,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UnsupportedMedia,
)
from finlora_core.runs.config import explain
from finlora_core.strict_json import MAX_PROBLEMS

logger = logging.getLogger(__name__)

STATUS: dict[type[FinLoRAError], HTTPStatus] = {
    Unauthorized: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    Gone: HTTPStatus.GONE,
    MalformedBody: HTTPStatus.BAD_REQUEST,
    BodyTooSlow: HTTPStatus.REQUEST_TIMEOUT,
    BodyTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnsupportedMedia: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    TooManyRequests: HTTPStatus.TOO_MANY_REQUESTS,
    Invalid: HTTPStatus.UNPROCESSABLE_ENTITY,
    InsufficientStorage: HTTPStatus.INSUFFICIENT_STORAGE,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
}

CHALLENGE = {"WWW-Authenticate": "Bearer"}

SCHEMAS = "#/components/schemas/{model}"

RETRY_AFTER = "5"  # seconds


class KeyIssue(BaseModel):
    """One key of the request and what is wrong with it."""

    key: str
    code: str
    message: str


class Problem(BaseModel):
    """The shape of every error."""

    title: str
    status: int
    code: str = Field(description="Stable; listed in docs/errors.md.")
    detail: str = Field(description="For people.")
    errors: list[KeyIssue] = Field([], description="One entry for each key that is wrong.")


def status_of(error: type[FinLoRAError]) -> HTTPStatus:
    """The status of the nearest listed ancestor, so a new subclass needs no new line."""
    for base in error.__mro__:
        if base in STATUS:
            return STATUS[base]
    return HTTPStatus.INTERNAL_SERVER_ERROR


def problem(
    status: int,
    code: str,
    detail: str,
    errors: Sequence[KeyProblem] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    body = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        code=code,
        detail=detail,
        errors=[KeyIssue(key=e.key, code=e.code, message=e.message) for e in errors],
    )
    return JSONResponse(
        body.model_dump(),
        status_code=status,
        headers=dict(headers or {}),
        media_type="application/problem+json",
    )


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's OpenAPI entry: which errors it answers."""
    content = {"application/problem+json": {"schema": {"$ref": SCHEMAS.format(model="Problem")}}}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": content}
        for status in statuses
    }


def install_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(FinLoRAError, _finlora_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(DataError, _impossible_value)
    for out_of_reach in (OperationalError, PoolTimeout):
        app.add_exception_handler(out_of_reach, _database_down)


async def _finlora_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, FinLoRAError)  # noqa: S101  # registered for nothing else
    return problem(
        status_of(type(error)), error.code, str(error), error.problems, _headers_of(error)
    )


def _headers_of(error: FinLoRAError) -> Mapping[str, str]:
    if isinstance(error, Unauthorized):
        return CHALLENGE
    if isinstance(error, TooManyRequests):
        return {"Retry-After": str(error.retry_after)}
    if status_of(type(error)) is HTTPStatus.SERVICE_UNAVAILABLE:
        return {"Retry-After": RETRY_AFTER}
    return {}


async def _invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    found = error.errors()[:MAX_PROBLEMS]
    without_place = [{**each, "loc": each["loc"][1:] or each["loc"]} for each in found]
    invalid = InvalidRequest(*explain(without_place, _known_keys(request)))
    return await _finlora_error(request, invalid)


def _known_keys(request: Request) -> Sequence[str]:
    """The keys that the body of this route may have."""
    body = getattr(request.scope.get("route"), "body_field", None)
    model = getattr(getattr(body, "field_info", None), "annotation", None)
    return list(getattr(model, "model_fields", ()))


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # noqa: S101
    code = HTTPStatus(error.status_code).phrase.lower().replace(" ", "_")
    headers = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = ", ".join(_methods(request))  # Starlette names the first route's only
    return problem(error.status_code, code, str(error.detail), headers=headers)


def _methods(request: Request) -> Sequence[str]:
    """All that the path takes, whichever routes they are on."""
    here = (
        route
        for route in _each(request.app.routes)
        if route.matches(request.scope)[0] is not Match.NONE
    )
    return sorted({method for route in here for method in getattr(route, "methods", None) or ()})


def _each(routes: Iterable[Any]) -> Iterator[Any]:
    """FastAPI keeps an included router as one route, which names no methods."""
    for route in routes:
        included = getattr(route, "original_router", None)
        yield from included.routes if included else [route]


async def _gone(request: Request, error: Exception) -> JSONResponse:
    """Nobody hears this; it keeps what happens every day from looking like a failure."""
    return await _finlora_error(request, MalformedBody("the connection ended before the body"))


async def _impossible_value(request: Request, error: Exception) -> JSONResponse:
    detail = "a value holds what no stored one can, such as a NUL character"
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_request", detail)


async def _database_down(request: Request, error: Exception) -> JSONResponse:
    logger.warning("the database does not answer: %s", getattr(error, "orig", error))
    return problem(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "database_unavailable",
        "The database does not answer; nothing was stored. Try again soon.",
        headers={"Retry-After": RETRY_AFTER},
    )


def unexpected(request_id: str) -> JSONResponse:
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal_error",
        f"The server failed; its log says why, at request {request_id}.",
    )
