"""Around everything else: who may ask here, what each answer carries, and what a failure says."""

import logging
import re
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from secrets import token_hex
from traceback import format_exc
from typing import cast
from urllib.parse import unquote_to_bytes

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import problem, unexpected
from finlora_core.redact import redact
from finlora_core.strict_json import is_keepable

logger = logging.getLogger(__name__)

ANY_HOST = "*"
MAX_TARGET = 8192
"""Bytes of path and query."""

HEADERS: Mapping[bytes, bytes] = {
    b"cache-control": b"no-store",
    b"content-security-policy": b"default-src 'none'; base-uri 'none'; form-action 'none'; "
    b"frame-ancestors 'none'",
    b"cross-origin-resource-policy": b"same-origin",
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
}
"""Of every answer, unless its route says otherwise. None of CORS: no other site may ask."""

REQUEST_ID = b"x-request-id"
_SAFE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")


STATE = "request_id"
"""Where the request's id is found in its scope's state."""


class Hosts:
    """The names that this service answers to.

    A web page whose own name is made to point at this machine (DNS rebinding) sends that name as
    Host, so names are listed. An address cannot be made to point elsewhere.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset({"localhost", *(name.lower() for name in names)})

    def allow(self, host: str) -> bool:
        """Whether a request with this header, its port included, is meant for us."""
        match = _HOST.fullmatch(host.lower())
        if match is None:
            return False
        name = match[1].strip("[]").removesuffix(".")
        return ANY_HOST in self._names or name in self._names or _is_address(name)


class Edge:
    """The outermost middleware, so that what is answered below gets its headers, too."""

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(send, _request_id(scope))
        scope.setdefault("state", {})[STATE] = answer.id
        app = _refusal(scope, self._hosts) or self._app
        try:
            await app(scope, receive, answer)
        except Exception:
            trace, target = redact(format_exc()), scope["raw_path"].decode("ascii")
            logger.error("request %s failed: %s %s\n%s", answer.id, scope["method"], target, trace)
            if not answer.has_started:  # else the server cuts it off, and the client notices
                await unexpected(answer.id)(scope, receive, answer)


class _Answer:
    """What a server gives as `send`, which adds the headers."""

    def __init__(self, send: Send, id: str) -> None:
        self._send = send
        self.id = id
        self.has_started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_started = True
            given = list(message.get("headers", ()))
            names = {name.lower() for name, _ in given}
            added = [(name, value) for name, value in HEADERS.items() if name not in names]
            message["headers"] = [*given, *added, (REQUEST_ID, self.id.encode())]
        await self._send(message)


def _request_id(scope: Scope) -> str:
    """The client's own, when it can stand in a log."""
    given = _headers(scope, REQUEST_ID)
    is_safe = len(given) == 1 and _SAFE_ID.fullmatch(given[0])
    return given[0].decode() if is_safe else token_hex(8)


def _refusal(scope: Scope, hosts: Hosts) -> Response | None:
    """The answer to what no route should see."""
    if _headers(scope, b"transfer-encoding") and _headers(scope, b"content-length"):
        # servers and proxies disagree where such a request ends, and the next one begins
        detail = "a request has a Content-Length or a Transfer-Encoding, not both"
        return problem(400, "malformed_request", detail, headers={"Connection": "close"})
    if not _is_for_us(scope, hosts):
        detail = (
            "a request names in one Host header who it is for; this server answers to addresses, "
            "localhost and the names in FINLORA_ALLOWED_HOSTS"
        )
        return problem(400, "invalid_host", detail)
    path = cast("bytes", scope["raw_path"])
    if len(path) + len(scope["query_string"]) > MAX_TARGET:
        return problem(414, "uri_too_long", f"path and query may have {MAX_TARGET} bytes")
    if not _is_text(path):
        return problem(404, "not_found", "Not Found")
    return None


def _is_for_us(scope: Scope, hosts: Hosts) -> bool:
    named = _headers(scope, b"host")
    if not named:
        return bool(scope["http_version"] == "1.0")  # which needs none, and no browser speaks
    return len(named) == 1 and hosts.allow(named[0].decode("latin-1"))


def _headers(scope: Scope, wanted: bytes) -> list[bytes]:
    return [value for name, value in scope["headers"] if name == wanted]


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_text(path: bytes) -> bool:
    try:
        return is_keepable(unquote_to_bytes(path).decode("utf-8"))
    except UnicodeDecodeError:
        return False
