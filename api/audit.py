"""Tell the audit log what a request does."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from api.edge import STATE
from finlora_core.access.keys import Caller
from finlora_core.audit import log
from finlora_core.audit.action import Action
from finlora_core.audit.log import Actor


@dataclass(frozen=True)
class Audit:
    """Of one request."""

    pepper: bytes
    request_id: str

    def note(
        self,
        session: Session,
        caller: Caller,
        action: Action,
        object_id: str,
        *,
        now: datetime,
        **details: Any,
    ) -> None:
        """In the transaction of what is done. No secret in `details`."""
        actor = Actor(caller.owner, caller.key_id, self.request_id)
        log.note(session, self.pepper, actor, action, object_id, now=now, **details)


def audit_of(request: Request) -> Audit:
    return Audit(request.app.state.pepper, request.scope["state"][STATE])


async def _audit(request: Request) -> Audit:
    return audit_of(request)


AuditDep = Annotated[Audit, Depends(_audit)]
