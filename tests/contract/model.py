"""The run protocol a second time: plain Python, one thread, nothing of lifecycle's own code.

Written from docs/state_machine.md, so that what the database does can be held against it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

TTL = timedelta(seconds=120)
GRACE = timedelta(seconds=15)
WAIT = {1: timedelta(0), 2: timedelta(seconds=30)}
"""After this many crashes in a row; one more and the run has failed."""

Ref = tuple[str, int, str]
"""A lease: run, attempt, token."""

AFTER: Mapping[str, tuple[str, str, str]] = {
    # what ended the attempt: the run's status if nobody wished anything, to pause it, to cancel it
    "completed": ("succeeded", "succeeded", "succeeded"),
    "failed": ("failed", "failed", "cancelled"),
    "crashed": ("queued", "paused", "cancelled"),
    "crashed once too often": ("failed", "failed", "cancelled"),
    "stopped": ("queued", "paused", "cancelled"),
    "drained": ("queued", "paused", "cancelled"),
}


class Fenced(Exception):
    """The lease is not, or no longer, the run's."""


class Refused(Exception):
    """The run's status forbids it."""


@dataclass(kw_only=True)
class Try:
    """An attempt."""

    number: int
    worker: str
    started_at: datetime
    ended_at: datetime | None = None
    end: str | None = None
    error_code: str | None = None
    resumed_from: int | None = None


@dataclass(kw_only=True)
class ModelRun:
    """Fields are named like the columns that they predict."""

    id: str
    owner: str
    priority: int
    created_at: datetime
    queued_at: datetime
    not_before: datetime
    offered_at: datetime | None
    parent_id: str | None = None
    status: str = "queued"
    phase: str | None = None
    attempt: int = 0
    crashes: int = 0
    checkpoint_step: int | None = None
    progress: dict[str, Any] | None = None
    axolotl_yaml: str | None = None
    lease_owner: str | None = None
    lease_token: str | None = None
    lease_expires_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    cancel_requested_at: datetime | None = None
    pause_requested_at: datetime | None = None
    error_code: str | None = None
    tries: list[Try] = field(default_factory=list)
    told: list[str] = field(default_factory=lambda: ["created"])
    """The types of its events, the oldest first."""

    @property
    def wish(self) -> str | None:
        if self.cancel_requested_at:
            return "cancel"
        return "pause" if self.pause_requested_at else None

    @property
    def has_ended(self) -> bool:
        return self.status in ("succeeded", "failed", "cancelled")

    def row(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("tries", "told")}


@dataclass
class Model:
    runs: dict[str, ModelRun] = field(default_factory=dict)

    # ---- by users

    def create(self, id: str, now: datetime, **given: Any) -> str:
        self.runs[id] = ModelRun(
            id=id, created_at=now, queued_at=now, not_before=now, offered_at=now, **given
        )
        return id

    def retry(self, id: str, now: datetime, new_id: str) -> str:
        run = self.runs[id]
        if run.status not in ("failed", "cancelled"):
            raise Refused
        return self.create(new_id, now, owner=run.owner, priority=run.priority, parent_id=id)

    def cancel(self, id: str, now: datetime) -> str:
        run = self.runs[id]
        if run.status in ("succeeded", "failed"):
            raise Refused
        if run.status == "running" and not run.cancel_requested_at:
            run.told.append("cancel_requested")
        if run.status != "cancelled":
            run.cancel_requested_at = run.cancel_requested_at or now
        if run.status in ("queued", "paused"):
            run.status, run.finished_at = "cancelled", now
            run.told.append("cancelled")
        return run.status

    def pause(self, id: str, now: datetime) -> str:
        run = self.runs[id]
        if run.has_ended:
            raise Refused
        if run.status == "running":
            if run.cancel_requested_at or run.phase == "publishing":
                raise Refused
            run.told += [] if run.pause_requested_at else ["pause_requested"]
            run.pause_requested_at = run.pause_requested_at or now
        elif run.status == "queued":
            run.status = "paused"
            run.told.append("paused")
        return run.status

    def resume(self, id: str, now: datetime) -> str:
        run = self.runs[id]
        if run.status == "paused":
            run.status = "queued"
            run.queued_at = run.not_before = run.offered_at = now
            run.told.append("resumed")
        elif run.status != "queued":
            raise Refused
        return run.status

    # ---- by workers

    def claim(self, now: datetime, worker: str, token: Callable[[], str]) -> Ref | None:
        run = self._next(now)
        if run is None:
            return None
        run.attempt += 1
        run.told.append("started")
        run.tries.append(Try(number=run.attempt, worker=worker, started_at=now))
        run.status, run.phase, run.progress, run.started_at = "running", "preparing", None, now
        run.lease_owner, run.lease_token, run.lease_expires_at = worker, token(), now + TTL
        return run.id, run.attempt, run.lease_token

    def renew(self, lease: Ref, now: datetime, progress: Any, step: int | None) -> str | None:
        run = self._held(lease, now)
        run.lease_expires_at = now + TTL
        run.progress = progress or run.progress
        if step is not None and (run.checkpoint_step is None or step > run.checkpoint_step):
            run.checkpoint_step = step
            run.crashes = 0
            run.told.append("checkpoint_saved")
        return run.wish

    def enter(self, lease: Ref, now: datetime, phase: str) -> None:
        self._held(lease, now).phase = phase

    def start(self, lease: Ref, now: datetime, yaml: str, resumed_from: int | None) -> None:
        run = self._held(lease, now)
        if resumed_from is not None and resumed_from != run.tries[-1].resumed_from:
            run.told.append("resumed_from_checkpoint")
        run.axolotl_yaml, run.tries[-1].resumed_from = yaml, resumed_from

    def finish(self, lease: Ref, now: datetime, end: str, code: str | None, crash: bool) -> str:
        return _end(self._held(lease, now), now, end, code, crash)

    # ---- by whoever looks after them

    def expire(self, now: datetime) -> list[str]:
        expired = [run for run in self.runs.values() if _is_given_up(run, now)]
        for run in expired:
            _end(run, now, "lost", "worker_lost", True)
        return sorted(run.id for run in expired)

    def take_back(self, lease: Ref, now: datetime) -> str | None:
        run = self.runs.get(lease[0])
        if run is None or run.lease_token != lease[2]:
            return None
        return _end(run, now, "lost", "worker_lost", True)

    def held(self) -> list[tuple[str | None, Ref]]:
        running = [run for run in self.runs.values() if run.status == "running"]
        return sorted(
            (run.lease_owner, (run.id, run.attempt, run.lease_token or "")) for run in running
        )

    def unoffered(self, now: datetime, before: datetime) -> list[str]:
        due = [
            run for run in self.runs.values() if run.status == "queued" and run.not_before <= now
        ]
        due = [run for run in due if run.offered_at is None or run.offered_at <= before]
        return [run.id for run in sorted(due, key=lambda run: (run.queued_at, run.id))]

    def offer(self, ids: Sequence[str], at: datetime | None) -> None:
        for run in (self.runs[id] for id in ids):
            run.offered_at = at if run.status == "queued" else run.offered_at

    # ---- rules

    def _held(self, lease: Ref, now: datetime) -> ModelRun:
        id, attempt, token = lease
        run = self.runs.get(id)
        if run is None or (run.attempt, run.lease_token) != (attempt, token):
            raise Fenced
        if run.lease_expires_at is None or now >= run.lease_expires_at:
            raise Fenced
        return run

    def _next(self, now: datetime) -> ModelRun | None:
        """The owner with the fewest runs in training, then the one served longest ago, then the
        one who has waited longest; of that owner's runs the most urgent, then the oldest."""
        queued = [run for run in self.runs.values() if run.status == "queued"]
        due = [run for run in queued if run.not_before <= now]
        return min(due, key=lambda run: (*self._turn(run.owner), *_own_turn(run)), default=None)

    def _turn(self, owner: str) -> tuple[Any, ...]:
        own = [run for run in self.runs.values() if run.owner == owner]
        served = [run.started_at.timestamp() for run in own if run.started_at]
        return (
            sum(run.status == "running" for run in own),
            max(served, default=float("-inf")),
            min(run.queued_at for run in own if run.status == "queued"),
            owner,
        )


def _own_turn(run: ModelRun) -> tuple[Any, ...]:
    return -run.priority, run.queued_at, run.id


def _is_given_up(run: ModelRun, now: datetime) -> bool:
    return run.lease_expires_at is not None and now >= run.lease_expires_at + GRACE


def _end(run: ModelRun, now: datetime, end: str, code: str | None, crash: bool) -> str:
    run.crashes += crash
    what = "failed" if end == "lost" else end
    if crash:
        what = "crashed" if run.crashes in WAIT else "crashed once too often"
    column = {None: 0, "pause": 1, "cancel": 2}[run.wish]
    run.status = AFTER[what][column]
    run.told.append("requeued" if run.status == "queued" else run.status)
    last = run.tries[-1]
    last.ended_at, last.end, last.error_code = now, end, code
    run.lease_owner = run.lease_token = run.lease_expires_at = None
    run.phase = run.pause_requested_at = None
    if run.has_ended:
        run.finished_at = now
    if run.status == "failed":
        run.error_code = code
    if run.status == "queued":
        run.offered_at = None
        run.not_before = now + (WAIT[run.crashes] if crash else timedelta(0))
    return run.status
