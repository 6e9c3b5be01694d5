"""The same request twice makes one thing: what a sender's `Idempotency-Key` stands for."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from finlora_core.db.models import IdempotencyKey
from finlora_core.errors import IdempotencyConflict

KEPT = timedelta(hours=24)
"""How long a key is remembered: longer than any client repeats a request by itself."""


@dataclass(frozen=True)
class Made:
    id: str
    is_new: bool
    """False when an earlier request with the same key has made it."""


def make_once(
    session: Session,
    owner: str,
    key: str,
    request_sha256: str,
    make: Callable[[], str],
    *,
    now: datetime,
) -> Made:
    """What `make` gives the id of; called only by the first of the requests with this key.

    Requests at the same time wait here for the first one's transaction.
    Raises `IdempotencyConflict` when the key was used for another request.
    """
    row = IdempotencyKey(owner=owner, key=key, request_sha256=request_sha256, created_at=now)
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        return Made(_made_before(session, owner, key, request_sha256), is_new=False)
    row.made_id = make()
    session.flush()
    return Made(row.made_id, is_new=True)


def forget_old(session: Session, *, now: datetime) -> None:
    session.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < now - KEPT))


def _made_before(session: Session, owner: str, key: str, request_sha256: str) -> str:
    row = session.get_one(IdempotencyKey, (owner, key), populate_existing=True)
    if row.request_sha256 != request_sha256:
        raise IdempotencyConflict(
            "this Idempotency-Key was used for another request; take a new key for a new one"
        )
    assert row.made_id is not None  # noqa: S101  # its transaction has ended
    return row.made_id
