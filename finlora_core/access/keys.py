"""API keys: make, list, revoke, and tell whose a key is."""

import hmac
from collections.abc import Iterable, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from finlora_core.access import tokens
from finlora_core.access.quota import UNLIMITED, Quota
from finlora_core.access.scopes import Scope
from finlora_core.db.models import ApiKey
from finlora_core.db.pages import Page, page
from finlora_core.errors import Forbidden, NotFound

USE_NOTED_EVERY = timedelta(minutes=1)

_NO_HMAC = "0" * 64


@dataclass(frozen=True)
class Caller:
    """Whoever sent a request."""

    owner: str
    key_id: str
    scopes: Set[Scope]
    quota: Quota = UNLIMITED

    def require(self, scope: Scope) -> None:
        """Raises `Forbidden`."""
        if scope not in self.scopes:
            raise Forbidden(f"this key lacks the scope {scope.value!r}")


def create(
    session: Session,
    pepper: bytes,
    *,
    name: str,
    owner: str,
    scopes: Iterable[Scope],
    now: datetime,
    expires_at: datetime | None = None,
    quota: Quota = UNLIMITED,
) -> tuple[ApiKey, str]:
    """The key's row, and the key itself: the only time that anybody sees it."""
    token = tokens.mint()
    key = ApiKey(
        id=token.id,
        name=name,
        owner=owner,
        scopes=sorted(scope.value for scope in scopes),
        secret_hmac=tokens.secret_hmac(pepper, token.secret),
        created_at=now,
        expires_at=expires_at,
        **vars(quota),
    )
    session.add(key)
    session.flush()
    return key, token.text


def authenticate(session: Session, pepper: bytes, text: str, *, now: datetime) -> ApiKey | None:
    """The key's row; None for one that is wrong, expired or revoked.

    The same work in each case, so that the time it takes tells nothing.
    """
    token = tokens.parse(text) or tokens.mint()
    key = session.get(ApiKey, token.id)
    given = tokens.secret_hmac(pepper, token.secret)
    is_right = hmac.compare_digest(given, key.secret_hmac if key else _NO_HMAC)
    if key is None or not is_right or not _is_valid(key, now):
        return None
    return key


def caller_of(key: ApiKey) -> Caller:
    return Caller(key.owner, key.id, frozenset(map(Scope, key.scopes)), quota_of(key))


def is_use_noted(key: ApiKey, *, now: datetime) -> bool:
    return key.last_used_at is not None and now - key.last_used_at <= USE_NOTED_EVERY


def note_use(session: Session, key_id: str, *, now: datetime) -> None:
    """At most once in a while: using a key should not mean writing a row."""
    unnoted = or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < now - USE_NOTED_EVERY)
    noted = update(ApiKey).where(ApiKey.id == key_id, unnoted)
    session.execute(noted.values(last_used_at=now))


def list_keys(session: Session, *, cursor: str | None, limit: int) -> Page[ApiKey]:
    """Of every owner, the newest first. Raises `InvalidCursor`."""
    return page(session, select(ApiKey), ApiKey, cursor, limit)


def revoke(session: Session, key_id: str, *, now: datetime) -> ApiKey:
    """From now on it opens nothing; repeating it changes nothing. Raises `NotFound`."""
    key = session.get(ApiKey, key_id, with_for_update=True)
    if key is None:
        raise NotFound("key", key_id)
    key.revoked_at = key.revoked_at or now
    session.flush()
    return key


def are_there(session: Session) -> bool:
    return session.scalars(select(ApiKey.id).limit(1)).first() is not None


def said_of(key: ApiKey) -> dict[str, Any]:
    """What the audit log says of a new one."""
    return {"name": key.name, "for": key.owner, "scopes": key.scopes}


def quota_of(key: ApiKey) -> Quota:
    """What is the key's own."""
    return Quota(
        max_queued_runs=key.max_queued_runs,
        max_stored_bytes=key.max_stored_bytes,
        gpu_hours_per_day=key.gpu_hours_per_day,
    )


def _is_valid(key: ApiKey, now: datetime) -> bool:
    return key.revoked_at is None and (key.expires_at is None or now < key.expires_at)
