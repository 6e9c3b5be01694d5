"""What came of holding two results against each other."""

from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from finlora_core.db.models.base import Base, Listed


class Comparison(Listed, Base):
    """Two results on the same rows, A minus B. It never changes."""

    __tablename__ = "comparisons"
    __table_args__ = (
        CheckConstraint("better IN ('A', 'B')", name="better"),
        Index("ix_comparisons_page", "owner", "created_at", "id"),
        Index("ix_comparisons_a_adapter", "a_adapter_id", "created_at", "id"),
        Index("ix_comparisons_b_adapter", "b_adapter_id", "created_at", "id"),
    )

    owner: Mapped[str]
    a_result_id: Mapped[str] = mapped_column(
        ForeignKey("evaluation_results.id", ondelete="CASCADE")
    )
    b_result_id: Mapped[str] = mapped_column(
        ForeignKey("evaluation_results.id", ondelete="CASCADE")
    )
    a_adapter_id: Mapped[str | None] = mapped_column(ForeignKey("adapters.id"))
    """None for the base model itself, here and of B."""
    b_adapter_id: Mapped[str | None] = mapped_column(ForeignKey("adapters.id"))
    metric: Mapped[str]
    rows: Mapped[int]
    changed_rows: Mapped[int]
    """Those that A and B have not the same score for."""
    examples: Mapped[list[dict[str, Any]]]
    """The first of them, `evaluation.compare.Changed` as JSON."""
    difference: Mapped[float]
    low: Mapped[float]
    high: Mapped[float]
    """Ends of the difference's 95 % interval."""
    only_a: Mapped[int | None]
    """Rows that A alone got right; None, as the two below, where scores are more than that."""
    only_b: Mapped[int | None]
    p_value: Mapped[float | None]
    better: Mapped[str | None]
    """`A`, `B`, or None where no difference can be shown."""
    verdict: Mapped[str]
