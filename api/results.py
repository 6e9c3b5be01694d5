"""A result of an evaluation, as the evaluation shows it, and the adapter too."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from finlora_core.runs.config import PromptFormat


class ResultRead(BaseModel):
    """How one model has answered one set of rows."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    evaluation_id: str = Field(validation_alias="run_id")
    adapter_id: str | None = Field(description="None for the base model itself.")
    base_model: str
    quant_bits: int | None = Field(description="In which the base was loaded.")
    task: str | None = Field(
        description="None for rows of your own with a metric.", examples=["tfns"]
    )
    dataset_path: str
    dataset_sha256: str = Field(examples=["9f2c…"])
    prompt_format: PromptFormat
    rows: int = Field(description="How many were judged.")
    rows_sha256: str = Field(
        description="Of their prompts and targets: equal ones can be compared row by row.",
        examples=["1b04…"],
    )
    metric: str = Field(examples=["accuracy"])
    tolerance: float | None = Field(
        description="How far a number could be from its target and be right; null for metrics "
        "other than `numeric`."
    )
    value: float | None = Field(description="Between 0 and 1.")
    low: float | None = Field(description="Lower end of its 95 % interval (bootstrap over rows).")
    high: float | None
    summary: dict[str, Any] = Field(
        description="Other metrics, and counts: empty outputs, outputs that could not be read, "
        "prompts too long for the model, labels. docs/evaluation.md names them.",
        examples=[{"f1_weighted": 0.81, "empty_outputs": 0, "unread": 3, "too_long": 0}],
    )
    created_at: datetime
