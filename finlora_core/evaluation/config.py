"""What can be asked of an evaluation: adapters or a base model, and what they are to answer."""

import hashlib
import json
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from finlora_core.evaluation.tasks import Metric
from finlora_core.runs.config import (
    Line,
    ModelName,
    PromptFormat,
    Treatment,
    contradiction,
)

MAX_ADAPTERS = 16
MAX_SETS = 32
MAX_LABELS = 256
MAX_NEW_TOKENS = 2048
MAX_BATCH = 256

AdapterId = Annotated[str, StringConstraints(pattern=r"^adp_\w{1,64}$")]
Label = Annotated[str, StringConstraints(min_length=1, max_length=128)]


class Closed(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class EvaluationSet(Closed):
    """Rows to be answered, and what an answer is held against: a task, or data of your own."""

    task: str | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="One of FinLoRA's (docs/evaluation.md): it brings metric, labels and length "
        "of an answer. Default data: FinLoRA's test set, where GET /tasks says it must lie.",
        examples=["tfns"],
    )
    dataset_path: Line | None = Field(
        None,
        description="Rows with targets, as for training: a file inside a dataset root, or an "
        "uploaded `dataset_…`.",
    )
    metric: Metric | None = Field(
        None, strict=False, description="What an answer is held against, without a task."
    )
    labels: list[Label] | None = Field(
        None,
        min_length=1,
        max_length=MAX_LABELS,
        description="Of a classification. Default: the task's, or the targets that occur.",
        examples=[["positive", "negative", "neutral"]],
    )
    max_new_tokens: int | None = Field(
        None, ge=1, le=MAX_NEW_TOKENS, description="Of one answer. Default: the task's."
    )
    tolerance: float | None = Field(
        None,
        ge=0,
        allow_inf_nan=False,
        description="How far a number may be from its target. Default: the task's, or 0.",
    )
    prompt_format: PromptFormat | None = Field(
        None, strict=False, description="What a row holds. Default: what the first row seems to."
    )

    @model_validator(mode="after")
    def _says_what_to_do(self) -> Self:
        if self.task is None and (self.dataset_path is None or self.metric is None):
            missing = "metric" if self.dataset_path else "dataset_path"
            raise contradiction(missing, "give a task, or both dataset_path and metric")
        if self.task is not None and self.metric is not None:
            raise contradiction("metric", "a task brings its own metric: give one of the two")
        return self


class EvaluationConfig(Closed):
    """One base model is loaded once, for all of the adapters and sets."""

    adapters: list[AdapterId] = Field(
        [],
        max_length=MAX_ADAPTERS,
        description="Ids of finished adapters, all of one base model.",
        examples=[["adp_6f1c2a90d3e84b7f9a10_1"]],
    )
    base_model: ModelName | None = Field(
        None,
        description="Judge this base model too, without an adapter; beside adapters, theirs.",
    )
    quant_bits: Literal[4, 8] | None = Field(
        None,
        description="In which `base_model` is loaded. Default: as the adapters were trained; "
        "without adapters 16 bits. Adapters are always judged on a base as they were trained.",
    )
    tasks: list[EvaluationSet] = Field(min_length=1, max_length=MAX_SETS)
    limit: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Judge this many rows of each set, drawn with `seed`. Default: all.",
    )
    batch_size: int = Field(32, ge=1, le=MAX_BATCH, description="Rows answered at once.")
    seed: int = Field(42, ge=0, lt=2**32, description="Same seed and limit: the same rows.")

    @model_validator(mode="after")
    def _has_somebody_to_judge(self) -> Self:
        if not self.adapters and self.base_model is None:
            raise contradiction("adapters", "give adapters, or a base_model")
        if len(set(self.adapters)) < len(self.adapters):
            raise contradiction("adapters", "an adapter is there twice")
        if self.quant_bits is not None and self.base_model is None:
            raise contradiction(
                "quant_bits", "is for base_model; adapters are judged as they were trained"
            )
        return self

    @property
    def sha256(self) -> str:
        """Of the config as sorted JSON, defaults left out."""
        text = json.dumps(self.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class EvaluationRequest(EvaluationConfig, Treatment):
    """What POST /evaluations takes."""

    @property
    def config(self) -> EvaluationConfig:
        return EvaluationConfig.model_validate(
            self.model_dump(include=set(EvaluationConfig.model_fields))
        )
