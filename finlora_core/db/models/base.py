"""What all tables share: the registry, names of constraints, columns for times and enums."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Enum,
    Integer,
    MetaData,
    TypeDecorator,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from finlora_core.runs.config import PromptFormat
from finlora_core.runs.event_type import EventType, Level
from finlora_core.runs.kind import RunKind
from finlora_core.runs.outcome import End
from finlora_core.runs.status import Phase, RunStatus
from finlora_core.stages.stage import Stage


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


def _words(enum: type[StrEnum], length: int = 16) -> Enum:
    return Enum(
        enum,
        native_enum=False,
        length=length,
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
        list[str]: JSON,
        RunKind: _words(RunKind),
        RunStatus: _words(RunStatus),
        Phase: _words(Phase),
        End: _words(End),
        PromptFormat: _words(PromptFormat),
        EventType: _words(EventType, 32),
        Level: _words(Level),
        Stage: _words(Stage),
    }


AUTO_ID = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts rows by itself only in a column of type INTEGER."""


def where(condition: str) -> dict[str, Any]:
    """For an index of those rows alone. SQLite uses it only where it reads the same condition."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


class Listed:
    """What can be paged through, newest first. The table needs an index on (created_at, id)."""

    id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime]
