"""Adapters merged into their base."""

from typing import Any

from sqlalchemy import ForeignKey, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from finlora_core.db.models.base import Base, Listed


class MergedModel(Listed, Base):
    """What a merge has published. It never changes."""

    __tablename__ = "merged_models"
    __table_args__ = (Index("ix_merged_models_adapter", "adapter_id", "created_at", "id"),)

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), unique=True)
    """The merge's."""
    owner: Mapped[str]
    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapters.id"))
    fidelity: Mapped[dict[str, Any]]
    """`finlora_core.merging.fidelity.Fidelity` as JSON."""
    overridden: Mapped[str | None] = mapped_column(Text)
    """In which it is not as near to its adapter as was asked for; None where it is."""
    files: Mapped[list[dict[str, Any]]]
    """`finlora_core.adapters.manifest.File` as JSON, one for each published file."""
