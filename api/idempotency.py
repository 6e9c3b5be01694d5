"""`Idempotency-Key`: a POST that is sent again, since its answer was lost, makes nothing new."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Header, Request, Response
from sqlalchemy.orm import Session

from finlora_core.idempotency import Made, make_once

REPLAYED = "Idempotency-Replayed"

IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Any text of your own, new for each thing to be made. Sent again within 24 "
        "hours, the same request answers with what the first one made; another request: 409.",
    ),
]


@dataclass(frozen=True)
class Once:
    """What one request brings to being done once."""

    key: str | None
    request_sha256: str
    response: Response

    def make(
        self, session: Session, owner: str, make: Callable[[], str], *, now: datetime
    ) -> Made:
        """Calls `make` unless a request with this key has. Raises `IdempotencyConflict`."""
        if self.key is None:
            return Made(make(), is_new=True)
        made = make_once(session, owner, self.key, self.request_sha256, make, now=now)
        if not made.is_new:
            self.response.headers[REPLAYED] = "true"
        return made


async def once_of(
    request: Request, response: Response, idempotency_key: IdempotencyKey = None
) -> Once:
    digest = hashlib.sha256(f"{request.method} {request.url.path}\n".encode())
    if idempotency_key is not None:
        digest.update(await request.body())
    return Once(idempotency_key, digest.hexdigest(), response)


OnceDep = Annotated[Once, Depends(once_of)]
