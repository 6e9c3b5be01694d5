"""Runs, their attempts, the workers, and what attempts leave for people to read."""

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from finlora_core.db.models.base import AUTO_ID, Base, Listed, where
from finlora_core.runs.kind import RunKind
from finlora_core.runs.outcome import End, Wish
from finlora_core.runs.status import Phase, RunStatus

_STATUSES = ", ".join(f"'{status}'" for status in RunStatus)
_TERMINAL = ", ".join(f"'{status}'" for status in RunStatus if status.is_terminal)


class Run(Listed, Base):
    """What a user asked for. It outlives workers, attempts and messages."""

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint(f"status IN ({_STATUSES})", name="status"),
        CheckConstraint(f"(finished_at IS NOT NULL) = (status IN ({_TERMINAL}))", name="finished"),
        CheckConstraint("(lease_token IS NOT NULL) = (status = 'running')", name="lease_token"),
        CheckConstraint(
            "(lease_expires_at IS NOT NULL) = (status = 'running')", name="lease_expires_at"
        ),
        CheckConstraint(
            "pause_requested_at IS NULL OR status = 'running'", name="pause_requested_at"
        ),
        Index(
            "ix_runs_waiting",
            "owner",
            "queued_at",
            **where("status = 'queued'"),
        ),
        Index(
            "ix_runs_lease",
            "lease_expires_at",
            **where("lease_expires_at IS NOT NULL"),
        ),
        Index(
            "ix_runs_turn",
            "owner",
            "started_at",
            **where("started_at IS NOT NULL"),
        ),
        Index("ix_runs_page", "owner", "kind", "created_at", "id"),
        Index("ix_runs_status_page", "owner", "kind", "status", "created_at", "id"),
        Index("ix_runs_name_page", "owner", "kind", "name", "created_at", "id"),
        Index("ix_runs_variant_page", "owner", "kind", "variant", "created_at", "id"),
    )

    kind: Mapped[RunKind] = mapped_column(default=RunKind.TRAINING, server_default="training")
    owner: Mapped[str]
    """Whose it is. Owners take turns for the workers (`runs.turns`)."""
    parent_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id"))
    """The run that this one tries again, from its checkpoints."""
    name: Mapped[str]
    variant: Mapped[str]
    """The adapter's folder; of a run that makes no adapter, that of each it is about."""
    base_model: Mapped[str]
    config: Mapped[dict[str, Any]]
    """A `RunConfig`, or what its kind has instead."""
    config_sha256: Mapped[str]
    dataset_rows: Mapped[int]
    dataset_sha256: Mapped[str]
    """Of several datasets: of their hashes, one after the other."""
    validation_sha256: Mapped[str | None]
    """Of the dataset to validate on, where that is one of its own."""
    priority: Mapped[int] = mapped_column(default=0)
    """Among its owner's runs: higher goes first."""
    gpus: Mapped[int] = mapped_column(default=1)
    """Of one machine, that train it together."""
    time_limit_seconds: Mapped[float | None]
    """Of all attempts together."""
    user_metadata: Mapped[dict[str, Any] | None] = mapped_column("metadata")
    """Its user's own words for it; `metadata` itself is SQLAlchemy's."""

    status: Mapped[RunStatus] = mapped_column(default=RunStatus.QUEUED)
    """Written by `runs.lifecycle` and by nothing else."""
    phase: Mapped[Phase | None]
    queued_at: Mapped[datetime]
    """Its place in the line. A run that comes back from a worker keeps it."""
    not_before: Mapped[datetime]
    """When it may be claimed: later than `queued_at` after crashes."""
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    pause_requested_at: Mapped[datetime | None]
    offered_at: Mapped[datetime | None]
    """When the broker last took a message about this run."""

    attempt: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
    """In a row: a new checkpoint sets it back to 0."""
    checkpoint_step: Mapped[int | None]
    """Of the newest whole checkpoint."""
    lease_owner: Mapped[str | None]
    lease_token: Mapped[str | None]
    """A worker that no longer holds it can write nothing."""
    lease_expires_at: Mapped[datetime | None]

    progress: Mapped[dict[str, Any] | None]
    """`finlora_core.runs.journal.Progress` as JSON."""
    axolotl_yaml: Mapped[str | None] = mapped_column(Text)
    """What the newest attempt's worker gave to Axolotl."""
    error_code: Mapped[str | None]
    error_hint: Mapped[str | None] = mapped_column(Text)
    error_log: Mapped[str | None] = mapped_column(Text)

    @property
    def wish(self) -> Wish | None:
        """What somebody wants of the worker that trains it."""
        if self.cancel_requested_at is not None:
            return Wish.CANCEL
        return Wish.PAUSE if self.pause_requested_at is not None else None


Index(
    "ix_runs_claim",
    Run.owner,
    Run.priority.desc(),  # as they are claimed: no line is sorted to find who comes first
    Run.queued_at,
    Run.id,
    **where("status = 'queued'"),
)


class RunAttempt(Base):
    """One worker's try at a run. At most one a run is alive; an ended one never changes."""

    __tablename__ = "attempts"
    __table_args__ = (
        CheckConstraint('(ended_at IS NULL) = ("end" IS NULL)', name="ended"),
        Index(
            "uq_attempts_alive",
            "run_id",
            unique=True,
            **where("ended_at IS NULL"),
        ),
        Index("ix_attempts_ended_at", "ended_at"),
    )

    run_id: Mapped[str] = mapped_column(
        ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True
    )
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    worker: Mapped[str]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    resumed_from: Mapped[int | None]
    """The step of the checkpoint it went on from."""
    end: Mapped[End | None]
    error_code: Mapped[str | None]


class Worker(Base):
    """A worker process, for as long as it says that it is there."""

    __tablename__ = "workers"

    id: Mapped[str] = mapped_column(primary_key=True)
    host: Mapped[str]
    """One a machine, whatever its containers are called."""
    gpus: Mapped[int] = mapped_column(default=1)
    """How many it may use for one run; 1 on a CPU."""
    seen_at: Mapped[datetime]


class MetricPoint(Base):
    """One line of an attempt's metrics.jsonl. The id is the cursor."""

    __tablename__ = "metrics"
    __table_args__ = (Index("ix_metrics_run", "run_id", "id"),)

    id: Mapped[int] = mapped_column(AUTO_ID, primary_key=True, autoincrement=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    attempt: Mapped[int]
    step: Mapped[int]
    values: Mapped[dict[str, Any]]


class LogChunk(Base):
    """A piece of a run's log; pieces follow each other without gaps, in characters."""

    __tablename__ = "log_chunks"

    run_id: Mapped[str] = mapped_column(
        ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True
    )
    start: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    end: Mapped[int]
    text: Mapped[str] = mapped_column(Text)
