"""The life of a run: five statuses, seven edges, no I/O.

             ┌──────────── requeue (worker lost or drained) ───────┐
             ▼                                                     │
 POST ──► queued ──claim──► running ──┬──► succeeded   (terminal)  │
             │                        ├──► failed      (terminal)  │
             │                        ├──► cancelled   (terminal)  │
             │                        └────────────────────────────┘
             └────cancel──► cancelled

A request to cancel is a wish, not a status: it lives in `Run.cancel_requested_at`
until the worker has really stopped the training. docs/state_machine.md shows the same.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from finlora_core.errors import IllegalTransition


class RunStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return not TRANSITIONS[self]


class Phase(StrEnum):
    """What a running attempt is busy with. For people, never for rules."""

    PREPARING = "preparing"
    TRAINING = "training"
    PUBLISHING = "publishing"


TRANSITIONS: Mapping[RunStatus, frozenset[RunStatus]] = MappingProxyType(
    {
        RunStatus.QUEUED: frozenset({RunStatus.RUNNING, RunStatus.CANCELLED}),
        RunStatus.RUNNING: frozenset(
            {RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.QUEUED}
        ),
        RunStatus.SUCCEEDED: frozenset(),
        RunStatus.FAILED: frozenset(),
        RunStatus.CANCELLED: frozenset(),
    }
)


def require_transition(old: RunStatus, new: RunStatus) -> None:
    """Raise `IllegalTransition` unless the table above allows old -> new."""
    if new not in TRANSITIONS[old]:
        raise IllegalTransition(f"a {old} run cannot become {new}")
