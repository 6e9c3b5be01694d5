"""The life of a run: six statuses, ten edges, no I/O.

             ┌──── requeue (worker lost, drained, a failure that is retried) ────┐
             ▼                                                                   │
 POST ──► queued ──claim──► running ──┬──► succeeded   (terminal)                │
           │  │                       ├──► failed      (terminal)                │
           │  │                       ├──► cancelled   (terminal)                │
           │  │                       ├──► paused                                │
           │  │                       └──────────────────────────────────────────┘
           │  └──pause──► paused ──┬──resume──► queued
           │                       └──cancel──► cancelled
           └──cancel──► cancelled

To cancel and to pause are wishes, not statuses: they live in `Run.cancel_requested_at`
and `Run.pause_requested_at` until the worker has really stopped the training.
docs/state_machine.md shows the same.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from finlora_core.errors import IllegalTransition


class RunStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        return not TRANSITIONS[self]


class Phase(StrEnum):
    """What a running attempt is busy with. For people; the one rule: publishing is not paused."""

    PREPARING = "preparing"
    TRAINING = "training"
    EVALUATING = "evaluating"
    MERGING = "merging"
    PUBLISHING = "publishing"


TRANSITIONS: Mapping[RunStatus, frozenset[RunStatus]] = MappingProxyType(
    {
        RunStatus.QUEUED: frozenset({RunStatus.RUNNING, RunStatus.CANCELLED, RunStatus.PAUSED}),
        RunStatus.RUNNING: frozenset(
            {
                RunStatus.SUCCEEDED,
                RunStatus.FAILED,
                RunStatus.CANCELLED,
                RunStatus.QUEUED,
                RunStatus.PAUSED,
            }
        ),
        RunStatus.PAUSED: frozenset({RunStatus.QUEUED, RunStatus.CANCELLED}),
        RunStatus.SUCCEEDED: frozenset(),
        RunStatus.FAILED: frozenset(),
        RunStatus.CANCELLED: frozenset(),
    }
)


def require_transition(old: RunStatus, new: RunStatus) -> None:
    """Raise `IllegalTransition` unless the table above allows old -> new."""
    if new not in TRANSITIONS[old]:
        raise IllegalTransition(f"a {old} run cannot become {new}")
