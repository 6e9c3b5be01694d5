"""Whose request it is. A route that needs a scope says so in its signature."""

import hashlib
import logging
import time
from collections import OrderedDict
from dataclasses import replace
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.concurrency import run_in_threadpool
from fastapi.dependencies.models import Dependant
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from sqlalchemy.exc import SQLAlchemyError

from api.limits import RequestLimit
from finlora_core.access import keys
from finlora_core.access.keys import Caller
from finlora_core.access.quota import Quota
from finlora_core.access.scopes import Scope
from finlora_core.db.session import Database, now
from finlora_core.errors import Unauthorized

logger = logging.getLogger(__name__)

REMEMBERED = 3.0
"""Seconds that a good key is not looked up again: what a revoked one may still open."""

MOST_REMEMBERED = 1024

_bearer = HTTPBearer(
    scheme_name="key",
    auto_error=False,
    description="An API key: `finlora_…`, as `finlora keys create` or POST /keys has shown it.",
)


class Doorman:
    """Looks keys up, and remembers the good ones for a moment."""

    def __init__(self, database: Database, pepper: bytes, quota: Quota) -> None:
        self._database = database
        self._pepper = pepper
        self._quota = quota
        self._known: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()

    def recall(self, text: str) -> Caller | None:
        """Whoever used this key a moment ago; costs no query."""
        known = self._known.get(_digest(text))
        return known[0] if known and time.monotonic() < known[1] else None

    def look_up(self, text: str) -> Caller:
        """Raises `Unauthorized`."""
        with self._database.reading() as session:
            at = now(session)
            key = keys.authenticate(session, self._pepper, text, now=at)
        if key is None:
            raise Unauthorized("no valid API key was sent; send `Authorization: Bearer finlora_…`")
        caller = keys.caller_of(key)
        caller = replace(caller, quota=caller.quota.or_else(self._quota))
        if not keys.is_use_noted(key, now=at):
            self._note_use(caller)
        self._known[_digest(text)] = (caller, time.monotonic() + REMEMBERED)
        while len(self._known) > MOST_REMEMBERED:
            self._known.popitem(last=False)
        return caller

    def forget(self, key_id: str) -> None:
        """At once, in this process."""
        for digest, (caller, _) in list(self._known.items()):
            if caller.key_id == key_id:
                self._known.pop(digest, None)

    def _note_use(self, caller: Caller) -> None:
        try:
            with self._database.transaction() as session:
                keys.note_use(session, caller.key_id, now=now(session))
        except SQLAlchemyError as error:  # for people only: no reason to turn anybody away
            logger.warning("the use of key %s was not noted: %s", caller.key_id, error)


async def authenticate(
    request: Request,
    needed: SecurityScopes,
    sent: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Caller:
    doorman: Doorman = request.app.state.doorman
    limit: RequestLimit | None = request.app.state.request_limit
    text = sent.credentials if sent else ""
    caller = doorman.recall(text)
    if caller is None:
        caller = await run_in_threadpool(doorman.look_up, text)
    if limit is not None:
        await limit.count(request.scope, caller.key_id)
    for scope in needed.scopes:
        caller.require(Scope(scope))
    return caller


async def admit(request: Request, dependant: Dependant) -> None:
    """Ask for the key that a route needs, before its body is read: FastAPI asks afterwards."""
    for each in dependant.dependencies:
        if each.call is authenticate:
            needed = SecurityScopes(each.own_oauth_scopes)
            await authenticate(request, needed, await _bearer(request))


def requires(scope: Scope) -> Any:
    """For a route's signature: `caller: Annotated[Caller, requires(Scope.RUNS_READ)]`."""
    return Security(authenticate, scopes=[scope.value])


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
