"""What adapters and base models have been judged to be worth."""

from typing import Any

from sqlalchemy import ForeignKey, Index, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from finlora_core.db.models.base import Base, Listed
from finlora_core.runs.config import PromptFormat


class EvaluationResult(Listed, Base):
    """How one model has answered one set of rows. It never changes."""

    __tablename__ = "evaluation_results"
    __table_args__ = (
        Index("ix_evaluation_results_run", "run_id", "id"),
        Index("ix_evaluation_results_adapter", "adapter_id", "created_at", "id"),
        Index("ix_evaluation_results_page", "owner", "created_at", "id"),
    )

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    """The evaluation's."""
    owner: Mapped[str]
    adapter_id: Mapped[str | None] = mapped_column(ForeignKey("adapters.id"))
    """None for the base model itself."""
    base_model: Mapped[str]
    quant_bits: Mapped[int | None]
    task: Mapped[str | None]
    """None for a set that names only its metric."""
    dataset_path: Mapped[str]
    dataset_sha256: Mapped[str]
    prompt_format: Mapped[PromptFormat]
    rows: Mapped[int]
    rows_sha256: Mapped[str]
    """Of the prompts and targets that were judged, in their order."""
    metric: Mapped[str]
    tolerance: Mapped[float | None]
    """How far a number could be from its target and be right; None for other metrics."""
    value: Mapped[float | None]
    """None where no row counts."""
    low: Mapped[float | None]
    high: Mapped[float | None]
    """Ends of the 95 % interval."""
    summary: Mapped[dict[str, Any]]
    """What else there is to say: other metrics, and counts."""


class EvaluationOutputs(Base):
    """The rows behind a result, apart from it: lists of results do not read them."""

    __tablename__ = "evaluation_outputs"

    result_id: Mapped[str] = mapped_column(
        ForeignKey("evaluation_results.id", ondelete="CASCADE"), primary_key=True
    )
    jsonl: Mapped[bytes] = mapped_column(LargeBinary)
    """`evaluation.outputs.Output` a line, compressed with gzip."""
