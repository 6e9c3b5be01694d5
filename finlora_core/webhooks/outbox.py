"""What is to be told, written in the transaction of the move it tells of."""

import json
import uuid
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType

from sqlalchemy import select
from sqlalchemy.orm import Session

from finlora_core.db.models import Delivery, Run, Webhook
from finlora_core.runs.status import RunStatus

EVENTS: Mapping[RunStatus, str] = MappingProxyType(
    {status: f"fine_tuning.job.{status}" for status in RunStatus if status.is_terminal}
)
"""OpenAI's names, so that its clients can read them."""


def tell(session: Session, run: Run, *, now: datetime) -> None:
    """Of a run that has just ended: a delivery to each webhook of its owner that wants it."""
    event = EVENTS[run.status]
    with session.no_autoflush:  # the caller is still at changing the run's row
        webhooks = session.scalars(select(Webhook).where(Webhook.owner == run.owner)).all()
    session.add_all(_delivery(one, run, event, now) for one in webhooks if event in one.events)


def _delivery(webhook: Webhook, run: Run, event: str, now: datetime) -> Delivery:
    id = f"evt_{uuid.uuid4().hex[:20]}"
    body = {
        "id": id,
        "object": "event",
        "created_at": int(now.timestamp()),
        "type": event,
        "data": {"id": f"ftjob-{run.id.removeprefix('run_')}", "run_id": run.id},
    }
    return Delivery(
        id=id,
        webhook_id=webhook.id,
        run_id=run.id,
        event=event,
        body=json.dumps(body),
        created_at=now,
        next_at=now,
    )
