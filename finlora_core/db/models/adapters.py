"""Finished adapters."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from finlora_core.db.models.base import AUTO_ID, Base, Listed, where
from finlora_core.stages.stage import Stage


class Adapter(Listed, Base):
    """A finished, checked, published LoRA. Its files never change; of its row only its
    stage, and what the scrub has found."""

    __tablename__ = "adapters"
    __table_args__ = (
        UniqueConstraint("owner", "variant", "name", "version"),
        Index("ix_adapters_page", "owner", "created_at", "id"),
        Index("ix_adapters_name_page", "owner", "name", "created_at", "id"),
        Index("ix_adapters_variant_page", "owner", "variant", "created_at", "id"),
        Index("ix_adapters_base_model_page", "owner", "base_model", "created_at", "id"),
        Index("ix_adapters_stage_page", "owner", "stage", "created_at", "id"),
        Index("ix_adapters_name_stage_page", "owner", "name", "stage", "created_at", "id"),
        Index("ix_adapters_verified", "verified_at"),
        Index(
            "uq_adapters_production",
            "owner",
            "name",
            unique=True,
            **where("stage = 'production'"),
        ),
    )

    owner: Mapped[str]
    run_id: Mapped[str | None] = mapped_column(ForeignKey("runs.id"), unique=True)
    """None for an adapter that was made elsewhere and imported."""
    name: Mapped[str]
    variant: Mapped[str]
    version: Mapped[int]
    stage: Mapped[Stage] = mapped_column(
        default=Stage.CANDIDATE, server_default=Stage.CANDIDATE.value
    )
    """Written by `stages.moves` and by nothing else."""
    base_model: Mapped[str]
    sha256: Mapped[str]
    """Of adapter_model.safetensors: what `sha256sum` prints."""
    files: Mapped[list[dict[str, Any]]]
    """`finlora_core.adapters.manifest.File` as JSON, one for each published file."""
    verified_at: Mapped[datetime]
    """When all its files were last read and compared with their SHA-256; first at publishing."""
    verifying_since: Mapped[datetime | None]
    """Set while a process reads them again; too long ago, and that process has died."""
    damage: Mapped[str | None] = mapped_column(Text)
    """What was wrong with its files then; None when they were sound."""

    @property
    def manifest_sha256(self) -> str | None:
        """Of its manifest.json, which names the SHA-256 of every other file."""
        return next((f["sha256"] for f in self.files if f["path"] == "manifest.json"), None)


class StageMove(Base):
    """That an adapter has gone from one stage to another, and why."""

    __tablename__ = "stage_moves"
    __table_args__ = (Index("ix_stage_moves_adapter", "adapter_id", "id"),)

    id: Mapped[int] = mapped_column(AUTO_ID, primary_key=True, autoincrement=True)
    adapter_id: Mapped[str] = mapped_column(ForeignKey("adapters.id"))
    at: Mapped[datetime]
    old: Mapped[Stage]
    new: Mapped[Stage]
    comparison_id: Mapped[str | None] = mapped_column(
        ForeignKey("comparisons.id", ondelete="SET NULL")
    )
    """With the one whose place it took: found better, unless there is an override."""
    override: Mapped[str | None] = mapped_column(Text)
    """Why it was promoted whatever was found."""
    replaced_by: Mapped[str | None] = mapped_column(ForeignKey("adapters.id"))
    """Who took its place in production."""
