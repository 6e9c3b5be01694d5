"""Uploaded datasets, and uploads in parts that are to become one."""

from datetime import datetime

from sqlalchemy import BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from finlora_core.db.models.base import Base, Listed
from finlora_core.runs.config import PromptFormat


class Dataset(Listed, Base):
    """A whole, checked file of rows. Neither it nor its row ever changes."""

    __tablename__ = "datasets"
    __table_args__ = (
        Index("ix_datasets_page", "owner", "created_at", "id"),
        Index("ix_datasets_expiry", "expires_at"),
    )

    owner: Mapped[str]
    name: Mapped[str]
    """The file's, as its owner called it."""
    prompt_format: Mapped[PromptFormat]
    bytes: Mapped[int] = mapped_column(BigInteger)
    rows: Mapped[int]
    sha256: Mapped[str]
    expires_at: Mapped[datetime | None]
    """When it is removed, should no run need it."""


class Upload(Listed, Base):
    """A file that comes in parts, which lie in a folder named like it, to become a dataset."""

    __tablename__ = "uploads"
    __table_args__ = (Index("ix_uploads_expiry", "expires_at"),)

    owner: Mapped[str]
    name: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    """Of the whole file, as announced."""
    lifetime_seconds: Mapped[int | None]
    """Of the dataset that it becomes."""
    expires_at: Mapped[datetime]
    """When its parts are removed."""
    cancelled_at: Mapped[datetime | None]
    dataset_id: Mapped[str | None]
    """What it has become. Not a foreign key: the dataset may be deleted."""
