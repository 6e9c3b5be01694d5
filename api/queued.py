"""What is shown of a run of any kind but a training: it waits, works and ends as one."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from api.routers.runs import RunError, error_of
from finlora_core.db.models import Run
from finlora_core.runs.status import Phase, RunStatus
from finlora_core.runs.turns import COUNTED


class QueuedRead(BaseModel):
    id: str
    name: str
    owner: str
    base_model: str
    status: RunStatus
    phase: Phase | None = Field(description="What a running attempt is busy with.")
    cancel_requested: bool
    priority: int
    queue_position: int | None = Field(
        description=f"Runs of any kind ahead of it, counted up to {COUNTED}; null unless queued."
    )
    attempt: int
    time_limit_seconds: float | None
    metadata: dict[str, str] | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    error: RunError | None


def queued(run: Run, queue_position: int | None) -> dict[str, Any]:
    """The keys of a `QueuedRead`."""
    return {
        "id": run.id,
        "name": run.name,
        "owner": run.owner,
        "base_model": run.base_model,
        "status": run.status,
        "phase": run.phase,
        "cancel_requested": run.cancel_requested_at is not None,
        "priority": run.priority,
        "queue_position": queue_position,
        "attempt": run.attempt,
        "time_limit_seconds": run.time_limit_seconds,
        "metadata": run.user_metadata,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "error": error_of(run),
    }
