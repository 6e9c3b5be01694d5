"""What to do when an attempt ends. Pure: no clock, no database, no process."""

from dataclasses import dataclass
from enum import StrEnum

from finlora_core.runs.status import RunStatus


class End(StrEnum):
    """What the worker saw, not what it concluded."""

    COMPLETED = "completed"
    """The completion marker is there and the adapter passed its checks."""
    FAILED = "failed"
    STOPPED = "stopped"
    """The training was stopped because somebody wished to cancel the run."""
    DRAINED = "drained"
    """The worker is shutting down; the run did nothing wrong."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a run failed, in a form a program and a person can act on."""

    code: str
    hint: str
    log_tail: str = ""


@dataclass(frozen=True, kw_only=True)
class AttemptEnd:
    end: End
    failure: Failure | None = None
    """Set when, and only when, `end` is FAILED."""


def next_status(end: End, *, cancel_requested: bool) -> RunStatus:
    """The run's status after an attempt that the worker itself brought to an end.

    Finished work is kept: an adapter that is there beats a wish to cancel that came late.
    """
    if end is End.COMPLETED:
        return RunStatus.SUCCEEDED
    if cancel_requested:
        return RunStatus.CANCELLED
    if end is End.DRAINED:
        return RunStatus.QUEUED
    return RunStatus.FAILED


def status_after_loss(*, cancel_requested: bool, crashes: int, max_crashes: int) -> RunStatus:
    """The run's status when its worker vanished; `crashes` counts this loss too."""
    if cancel_requested:
        return RunStatus.CANCELLED
    return RunStatus.FAILED if crashes >= max_crashes else RunStatus.QUEUED
