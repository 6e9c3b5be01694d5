"""What to do when an attempt ends. Pure: no clock, no database, no process."""

from dataclasses import dataclass
from enum import StrEnum

from finlora_core.runs.status import RunStatus
from finlora_core.settings import Settings

LONGEST_DELAY = 3600.0
"""Seconds between two retries, however often a run has crashed."""


class End(StrEnum):
    """What was seen, not what is concluded from it."""

    COMPLETED = "completed"
    """The completion marker is there and the adapter passed its checks."""
    FAILED = "failed"
    STOPPED = "stopped"
    """The training was stopped because somebody wished to cancel or to pause the run."""
    DRAINED = "drained"
    """The worker is shutting down; the run did nothing wrong."""
    LOST = "lost"
    """The worker has vanished."""


class Wish(StrEnum):
    """What somebody wants of a running run. To cancel beats to pause."""

    CANCEL = "cancel"
    PAUSE = "pause"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a run failed; `training.hints` has words for it that a person can act on."""

    code: str
    detail: str = ""
    """What it was in this case; without secrets."""
    log_tail: str = ""
    is_retried: bool = False
    """Whether it may go away by itself: then the run is tried again, a few times."""


@dataclass(frozen=True, kw_only=True)
class AttemptEnd:
    end: End
    failure: Failure | None = None
    """Set when, and only when, `end` is FAILED or LOST."""

    @property
    def is_crash(self) -> bool:
        """Whether it counts against the run's crash budget."""
        return self.failure is not None and self.failure.is_retried


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    max_crashes: int
    """How many crashes in a row, without a new checkpoint between them, fail a run."""
    backoff: float
    """Seconds; see `delay`."""

    @classmethod
    def of(cls, settings: Settings) -> "RetryPolicy":
        return cls(max_crashes=settings.max_crashes, backoff=settings.retry_backoff_seconds)

    def delay(self, crashes: int) -> float:
        """Seconds to wait after this many crashes in a row: 0, 1, 3, 7 … times the backoff."""
        return min(self.backoff * (2.0 ** max(0, crashes - 1) - 1), LONGEST_DELAY)


def next_status(
    end: AttemptEnd, *, wish: Wish | None, crashes: int, policy: RetryPolicy
) -> RunStatus:
    """The run's status after an attempt; `crashes` counts this one too.

    Finished work is kept: an adapter that is there beats a wish that came late.
    """
    if end.end is End.COMPLETED:
        return RunStatus.SUCCEEDED
    if wish is Wish.CANCEL:
        return RunStatus.CANCELLED
    if end.failure is not None and (not end.is_crash or crashes >= policy.max_crashes):
        return RunStatus.FAILED
    return RunStatus.PAUSED if wish is Wish.PAUSE else RunStatus.QUEUED
