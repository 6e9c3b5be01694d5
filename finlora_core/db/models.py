"""The tables. Migrations in migrations/ make the same ones; a test holds the two together."""

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Enum,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from finlora_core.runs.status import Phase, RunStatus


class UTCDateTime(TypeDecorator[datetime]):
    """Aware in Python, UTC in the database, on every dialect."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _words(enum: type[RunStatus] | type[Phase]) -> Enum:
    return Enum(
        enum,
        native_enum=False,
        length=16,
        create_constraint=False,
        values_callable=lambda members: [member.value for member in members],
    )


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: UTCDateTime,
        dict[str, Any]: JSON,
        list[dict[str, Any]]: JSON,
        RunStatus: _words(RunStatus),
        Phase: _words(Phase),
    }


_STATUSES = ", ".join(f"'{status}'" for status in RunStatus)
_TERMINAL = ", ".join(f"'{status}'" for status in RunStatus if status.is_terminal)

_AutoId = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts rows by itself only in a column of type INTEGER."""


class Run(Base):
    """What a user asked for. It outlives workers, attempts and messages."""

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint(f"status IN ({_STATUSES})", name="status"),
        CheckConstraint(f"(finished_at IS NOT NULL) = (status IN ({_TERMINAL}))", name="finished"),
        CheckConstraint("(lease_token IS NOT NULL) = (status = 'running')", name="lease_token"),
        CheckConstraint(
            "(lease_expires_at IS NOT NULL) = (status = 'running')", name="lease_expires_at"
        ),
        Index(
            "ix_runs_claim",
            "queued_at",
            "id",
            sqlite_where=text("status = 'queued'"),
            postgresql_where=text("status = 'queued'"),
        ),
        Index(
            "ix_runs_lease",
            "lease_expires_at",
            sqlite_where=text("status = 'running'"),
            postgresql_where=text("status = 'running'"),
        ),
        Index("ix_runs_page", "created_at", "id"),
        Index("ix_runs_status_page", "status", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    variant: Mapped[str]
    base_model: Mapped[str]
    config: Mapped[dict[str, Any]]
    config_sha256: Mapped[str]
    dataset_rows: Mapped[int]
    dataset_sha256: Mapped[str]

    status: Mapped[RunStatus] = mapped_column(default=RunStatus.QUEUED)
    """Written by `runs.lifecycle` and by nothing else."""
    phase: Mapped[Phase | None]
    created_at: Mapped[datetime]
    queued_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    cancel_requested_at: Mapped[datetime | None]
    offered_at: Mapped[datetime | None]
    """When the broker last took a message about this run."""

    attempt: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
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


class MetricPoint(Base):
    """One line of an attempt's metrics.jsonl. The id is the cursor."""

    __tablename__ = "metrics"
    __table_args__ = (Index("ix_metrics_run", "run_id", "id"),)

    id: Mapped[int] = mapped_column(_AutoId, primary_key=True, autoincrement=True)
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


class Adapter(Base):
    """A finished, checked, published LoRA. Rows and files never change."""

    __tablename__ = "adapters"
    __table_args__ = (
        UniqueConstraint("variant", "name", "version"),
        Index("ix_adapters_page", "created_at", "id"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), unique=True)
    name: Mapped[str]
    variant: Mapped[str]
    version: Mapped[int]
    base_model: Mapped[str]
    sha256: Mapped[str]
    """Of adapter_model.safetensors: what `sha256sum` prints."""
    files: Mapped[list[dict[str, Any]]]
    """`finlora_core.adapters.manifest.File` as JSON, one for each published file."""
    created_at: Mapped[datetime]
