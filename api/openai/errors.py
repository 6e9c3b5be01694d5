"""Errors below /v1 as OpenAI's clients read them: {"error": {message, type, param, code}}.

Whatever answers a problem, a route, a router or a middleware, its answer is translated on the
way out: so none can be forgotten.
"""

import json
from collections.abc import Mapping, MutableMapping
from typing import Any

from pydantic import BaseModel, Field
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.openai.ids import in_words

PREFIX = "/v1/"

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}

_PARAMS = {
    "dataset_path": "training_file",
    "validation_dataset_path": "validation_file",
    "base_model": "model",
}
"""Keys of a run config by what they are called here."""

_FINAL = (409, 507)
_FINAL_CODES = ("quota_exceeded",)
"""The clients would send these again within seconds, and get the same."""


class OpenAIErrorDetail(BaseModel):
    message: str = Field(description="For people.")
    type: str
    param: str | None = Field(description="The key that is wrong.")
    code: str | None = Field(description="Stable; listed in docs/errors.md.")


class OpenAIError(BaseModel):
    """The shape of every error below /v1."""

    error: OpenAIErrorDetail


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's OpenAPI entry: which errors it answers."""
    return {status: {"model": OpenAIError} for status in statuses}


def translate(problem: Mapping[str, Any]) -> tuple[int, OpenAIError]:
    """The answer's status and body."""
    status = 400 if problem["status"] == 422 else problem["status"]
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    key = next((each["key"] for each in problem["errors"]), None)
    detail = OpenAIErrorDetail(
        message=in_words(problem["detail"]),
        type=kind,
        param=_PARAMS.get(key, key) if key else None,
        code=problem["code"],
    )
    return status, OpenAIError(error=detail)


class TranslateErrors:
    """Around the whole application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(PREFIX):
            send = _Translated(send)
        await self._app(scope, receive, send)


class _Translated:
    """Holds a problem back until all of it is there; lets everything else through."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: MutableMapping[str, Any] | None = None
        self._body = b""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_problem(message):
            self._start = message
        elif self._start is None:
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body"):
                await self._answer(self._start)

    async def _answer(self, start: Message) -> None:
        status, error = translate(json.loads(self._body))
        body = error.model_dump_json().encode()
        headers = MutableHeaders(raw=list(start["headers"]))
        headers["content-type"] = "application/json"
        headers["content-length"] = str(len(body))
        if status in _FINAL or error.error.code in _FINAL_CODES:
            headers["x-should-retry"] = "false"
        await self._send({**start, "status": status, "headers": headers.raw})
        await self._send({"type": "http.response.body", "body": body})


def _is_problem(start: Message) -> bool:
    headers = MutableHeaders(raw=list(start["headers"]))
    return headers.get("content-type", "").startswith("application/problem+json")
