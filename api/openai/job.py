"""A run as a fine-tuning job."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from api.openai import names, results
from api.openai.ids import shown
from api.openai.job_request import LEARNING_RATE
from finlora_core.db.models import Adapter, Run
from finlora_core.runs.config import RunConfig
from finlora_core.runs.journal import Progress
from finlora_core.runs.status import RunStatus


class JobError(BaseModel):
    code: str = Field(description="Stable; listed in docs/errors.md.")
    message: str
    param: str | None = None


class UsedHyperparameters(BaseModel):
    """What was taken, also in the place of `auto`."""

    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float


class UsedSupervised(BaseModel):
    hyperparameters: UsedHyperparameters


class UsedMethod(BaseModel):
    type: Literal["supervised"] = "supervised"
    supervised: UsedSupervised


class JobObject(BaseModel):
    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    status: RunStatus
    error: JobError | None
    model: str
    fine_tuned_model: str | None = Field(description="As GET /v1/models lists it.")
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    seed: int
    hyperparameters: UsedHyperparameters
    method: UsedMethod
    metadata: dict[str, str] | None
    organization_id: str = Field(description="The run's owner.")
    integrations: list[Any] = []


def show_job(run: Run, adapter: Adapter | None, tokens: int | None, now: datetime) -> JobObject:
    """`tokens`: how many the trainer has counted."""
    config = RunConfig.model_validate(run.config)
    used = _used(config)
    validation = config.validation_dataset_path
    ended = run.status.is_terminal
    return JobObject(
        id=shown(run.id),
        created_at=int(run.created_at.timestamp()),
        finished_at=int(run.finished_at.timestamp()) if run.finished_at else None,
        estimated_finish=_estimated_finish(run, now),
        status=run.status,
        error=_error(run),
        model=run.base_model,
        fine_tuned_model=names.model_of(adapter) if adapter else None,
        training_file=shown(config.dataset_path),
        validation_file=shown(validation) if validation else None,
        result_files=results.ids_of(run),
        trained_tokens=tokens if ended else None,
        seed=config.seed,
        hyperparameters=used,
        method=UsedMethod(supervised=UsedSupervised(hyperparameters=used)),
        metadata=run.user_metadata,
        organization_id=run.owner,
    )


def tokens_in(values: Mapping[str, float]) -> int | None:
    """Of all rows so far, those that are only read included: Axolotl counts them."""
    total = values.get("tokens/total")
    return None if total is None else int(total)


def _used(config: RunConfig) -> UsedHyperparameters:
    rows_a_step = config.batch_size * config.gradient_accumulation_steps * config.gpus
    return UsedHyperparameters(
        n_epochs=config.num_epochs,
        batch_size=rows_a_step,
        learning_rate_multiplier=round(config.learning_rate / LEARNING_RATE, 9),
    )


def _estimated_finish(run: Run, now: datetime) -> int | None:
    progress = Progress.model_validate(run.progress) if run.progress else None
    if run.status is not RunStatus.RUNNING or progress is None or progress.eta_seconds is None:
        return None
    return int(now.timestamp() + progress.eta_seconds)


def _error(run: Run) -> JobError | None:
    if run.error_code is None:
        return None
    return JobError(code=run.error_code, message=run.error_hint or run.error_code)
