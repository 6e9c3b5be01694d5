"""Watch one guarded process to its end, and end it when there is a reason to.

What is seen goes into a `Look`, what follows from it is a pure decision, and acting on it
is the loop at the end.
"""

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from finlora_core.errors import LeaseLost
from finlora_core.runs.outcome import AttemptEnd, End, Wish
from finlora_core.settings import Settings
from finlora_core.training import checkpoints
from finlora_core.training.checkpoints import Lineage
from finlora_core.training.diagnose import FailureCode, failure
from finlora_core.training.files import AttemptFiles, RunFiles
from worker.guard import SILENCED
from worker.heartbeat import Heartbeat, boottime
from worker.process import GuardedProcess
from worker.tail import Tail, read_json, read_json_lines

logger = logging.getLogger(__name__)

WATCH_SECONDS = 0.2
MIB = 1024 * 1024

DISK_RESERVE = 0.25
"""Of min_free_disk_mib: a training that was let in is stopped when only this share is left,
while there is still room to write down why."""


class AttemptEnded(Exception):
    """The attempt is over before it reached its goal; carries what was seen."""

    def __init__(self, end: AttemptEnd) -> None:
        super().__init__(end.failure.code if end.failure else end.end.value)
        self.end = end


class Reason(StrEnum):
    """Why a process is stopped, the most urgent first."""

    LEASE_LOST = "lease_lost"
    CANCEL = "cancel"
    DISK_FULL = "disk_full"
    STALLED = "stalled"
    DRAIN = "drain"
    PAUSE = "pause"
    TIME_LIMIT = "time_limit"

    @property
    def saves_first(self) -> bool:
        """There is time for a checkpoint at the next step boundary."""
        return self in (Reason.DRAIN, Reason.PAUSE, Reason.TIME_LIMIT)


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look at a running attempt shows. Durations are in seconds."""

    lease_lost: bool = False
    wish: Wish | None = None
    draining: bool = False
    free_disk_mib: float = float("inf")
    without_step: float = 0
    time_left: float = float("inf")


def why_stop(look: Look, settings: Settings) -> Reason | None:
    """The most urgent reason to stop, or None."""
    reasons = {
        Reason.LEASE_LOST: look.lease_lost,
        Reason.CANCEL: look.wish is Wish.CANCEL,
        Reason.DISK_FULL: look.free_disk_mib < settings.min_free_disk_mib * DISK_RESERVE,
        Reason.STALLED: look.without_step > settings.stall_seconds,
        Reason.DRAIN: look.draining,
        Reason.PAUSE: look.wish is Wish.PAUSE,
        Reason.TIME_LIMIT: look.time_left <= 0,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _failed(code: FailureCode) -> AttemptEnd:
    return AttemptEnd(end=End.FAILED, failure=failure(code))


_ENDS: Mapping[Reason, AttemptEnd] = MappingProxyType(
    {
        Reason.CANCEL: AttemptEnd(end=End.STOPPED),
        Reason.DISK_FULL: _failed(FailureCode.DISK_FULL),
        Reason.STALLED: _failed(FailureCode.STALLED),
        Reason.DRAIN: AttemptEnd(end=End.DRAINED),
        Reason.PAUSE: AttemptEnd(end=End.STOPPED),
        Reason.TIME_LIMIT: _failed(FailureCode.TIME_LIMIT_EXCEEDED),
    }
)


@dataclass
class Watch:
    """Looks at an attempt's surroundings: its lease, its disk, the worker, the clock."""

    heartbeat: Heartbeat
    settings: Settings
    is_draining: Callable[[], bool]
    seconds_left: float = float("inf")
    """Of the run's time limit, when the attempt began."""
    _began: float = field(default_factory=boottime)

    def look(self, without_step: float = 0) -> Look:
        return Look(
            lease_lost=self.heartbeat.is_lost,
            wish=self.heartbeat.wish,
            draining=self.is_draining(),
            free_disk_mib=shutil.disk_usage(self.heartbeat.files.root).free / MIB,
            without_step=without_step,
            time_left=self.seconds_left - (boottime() - self._began),
        )


@dataclass
class Steps:
    """How far a training is: its newest step, and since when that is its newest."""

    files: AttemptFiles
    start: int
    """The step it goes on from."""
    newest: int = 0
    since: float = field(default_factory=boottime)
    _answered: int = 0

    def __post_init__(self) -> None:
        self.newest = self.start

    @property
    def has_moved(self) -> bool:
        return self.newest > self.start

    def look(self) -> float:
        """Seconds since the last step, or since it last answered rows to be judged between two."""
        progress = read_json(self.files.progress) or {}
        step, answered = progress.get("step"), progress.get("answered")
        if isinstance(step, int) and step > self.newest:
            self.newest, self.since = step, boottime()
        if isinstance(answered, int) and answered > self._answered:
            self._answered, self.since = answered, boottime()
        return boottime() - self.since


@dataclass
class Keeper:
    """Takes each checkpoint that the trainer has finished out of its reach."""

    run: RunFiles
    attempt: int
    lineage: Lineage
    heartbeat: Heartbeat

    def __post_init__(self) -> None:
        self._saved = Tail(self.run.attempt(self.attempt).saved)

    def look(self) -> None:
        """A disk that refuses costs the checkpoint, not the training; it is tried again."""
        try:
            for saved in read_json_lines(self._saved.read()):
                self._keep(saved.get("step"))
        except OSError as error:
            logger.warning("run %s: a checkpoint cannot be kept yet: %s", self.run.root, error)
        else:
            self._saved.commit()

    def _keep(self, step: object) -> None:
        if not isinstance(step, int):
            return
        kept = checkpoints.keep(self.run, self.attempt, self.lineage, step)
        if kept is not None:
            self.heartbeat.checkpoint_step = step
            if not self.heartbeat.is_lost:
                checkpoints.prune(self.run, self.lineage, kept)


def _make_sure(process: GuardedProcess) -> None:
    """No status says that a run has stopped while a process of it lives: rather keep the lease."""
    while not process.gone:
        logger.error("a process of the training cannot be ended; trying on")
        time.sleep(WATCH_SECONDS)
        process.stop()


def _own_code(code: int) -> int:
    """Raises `AttemptEnded` when it was the guard that ended the training, and we who slept:
    this process was stopped or its machine was, and yet the lease may still be ours."""
    if code == SILENCED:
        raise AttemptEnded(_failed(FailureCode.WORKER_LOST))
    return code


def supervise(process: GuardedProcess, watch: Watch, steps: Steps | None = None) -> int:
    """The exit code of a process that ended by itself, its tree gone. With `steps` it can stall.

    Otherwise the tree is ended first. Raises `LeaseLost` when the run is no longer ours,
    `AttemptEnded` when there was another reason to stop.
    """
    while (code := process.wait(WATCH_SECONDS)) is None:
        process.beat()
        if reason := why_stop(watch.look(steps.look() if steps else 0), watch.settings):
            _stop(process, reason)
    _make_sure(process)
    return _own_code(code)


def supervise_training(process: GuardedProcess, watch: Watch, steps: Steps, keeper: Keeper) -> int:
    """As `supervise`; but a training also stalls, leaves checkpoints behind, and where there is
    time for it is asked to save one before it stops."""
    asked: Reason | None = None
    asked_at = 0.0
    try:
        while (code := process.wait(WATCH_SECONDS)) is None:
            process.beat()
            keeper.look()
            reason = why_stop(watch.look(steps.look()), watch.settings)
            if reason is None:
                continue
            if not (reason.saves_first and steps.has_moved):
                _stop(process, reason)
            if reason is not asked:
                steps.files.stop_requested.touch()
                asked, asked_at = reason, boottime()
            if reason is Reason.DRAIN and boottime() - asked_at > watch.settings.drain_seconds:
                _stop(process, reason)
        _make_sure(process)
    finally:
        keeper.look()
    if asked and code == 0 and steps.files.stopped.is_file():
        raise AttemptEnded(_ENDS[asked])
    return _own_code(code)


def _stop(process: GuardedProcess, reason: Reason) -> None:
    """Ends the whole tree, then says why."""
    process.stop()
    if reason is Reason.LEASE_LOST:
        raise LeaseLost("stopped: the lease is lost, or could not be renewed in time")
    _make_sure(process)
    raise AttemptEnded(_ENDS[reason])
