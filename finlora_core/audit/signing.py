"""The signatures of the audit log: what nobody without the server's pepper can make. Pure."""

import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from finlora_core.db.models import AuditEntry, AuditHead

NOTHING = ""
"""The seal before the first one."""

SAID = ("at", "owner", "key_id", "action", "object_id", "request_id", "details")
"""The columns that are signed, in this order."""


def key_of(pepper: bytes) -> bytes:
    """For the audit log alone."""
    return hmac.digest(pepper, b"audit log", hashlib.sha256)


def sign(key: bytes, said: Mapping[str, Any]) -> str:
    """Of what an entry says, in hex; made when it is written."""
    at: datetime = said["at"]
    told = {**said, "at": at.astimezone(UTC).isoformat(timespec="microseconds")}
    return _hmac(key, "entry", json.dumps([told[name] for name in SAID], sort_keys=True))


def said_by(entry: AuditEntry) -> Mapping[str, Any]:
    return {name: getattr(entry, name) for name in SAID}


def seal(key: bytes, before: str, number: int, signature: str) -> str:
    """Of an entry at its place: behind the one whose seal is `before`."""
    return _hmac(key, "seal", before, str(number), signature)


def sign_head(key: bytes, head: AuditHead) -> str:
    return _hmac(key, "head", str(head.number), head.seal)


def is_same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())


def _hmac(key: bytes, *parts: str) -> str:
    return hmac.new(key, json.dumps(parts).encode(), hashlib.sha256).hexdigest()
