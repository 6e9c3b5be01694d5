"""Signatures as the Standard Webhooks specification has them, which OpenAI's clients check."""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime

PREFIX = "whsec_"


def secret_of(pepper: bytes, webhook_id: str) -> str:
    """`whsec_…`: derived from the server's pepper, so that no table holds it."""
    derived = hmac.digest(pepper, f"webhook:{webhook_id}".encode(), hashlib.sha256)
    return PREFIX + base64.b64encode(derived).decode()


def headers(secret: str, delivery_id: str, body: str, *, now: datetime) -> Mapping[str, str]:
    timestamp = str(int(now.timestamp()))
    key = base64.b64decode(secret.removeprefix(PREFIX))
    signed = f"{delivery_id}.{timestamp}.{body}".encode()
    signature = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": f"v1,{signature}",
    }
