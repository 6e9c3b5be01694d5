"""A fine-tuning job as OpenAI's clients ask for it -> a run config. Pure.

docs/openai.md defines what `"auto"`, `batch_size` and `learning_rate_multiplier` mean here.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from finlora_core.errors import InvalidRequest, KeyProblem
from finlora_core.runs.config import Metadata, PromptFormat, RunConfig, RunRequest, explain

_DEFAULTS = {name: field.default for name, field in RunConfig.model_fields.items()}

LEARNING_RATE: float = _DEFAULTS["learning_rate"]
"""What the multiplier multiplies: FinLoRA's own."""

ROWS_AT_ONCE: int = _DEFAULTS["batch_size"]
"""What a device takes at once, where nobody says: FinLoRA's own."""

_WHERE = "method.supervised.hyperparameters."

_KEYS = {
    "learning_rate": f"{_WHERE}learning_rate_multiplier",
    "num_epochs": f"{_WHERE}n_epochs",
    "batch_size": f"{_WHERE}batch_size",
    "gradient_accumulation_steps": f"{_WHERE}batch_size",
    "name": "suffix",
}
"""Keys of a run config by where OpenAI's clients have them."""

Auto = Literal["auto"]
Count = Annotated[int, Field(ge=1, strict=True)]


class Hyperparameters(BaseModel):
    model_config = ConfigDict(extra="forbid")

    n_epochs: Auto | Count = Field(default="auto", description="`auto`: 4.")
    batch_size: Auto | Count = Field(
        default="auto",
        description="Rows an optimizer step; `auto`: 8. At once a device takes 2 of them.",
    )
    learning_rate_multiplier: Auto | Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        default="auto", description="Of the learning rate 0.0002; `auto`: 1."
    )


class Supervised(BaseModel):
    model_config = ConfigDict(extra="forbid")

    hyperparameters: Hyperparameters = Hyperparameters()


class Method(BaseModel):
    type: str = Field(examples=["supervised"], description="Only `supervised`.")
    supervised: Supervised | None = None


class JobRequest(BaseModel):
    """Any key of FinLoRA's run config may stand beside these (`extra_body` in the client)."""

    model_config = ConfigDict(extra="allow")

    model: str = Field(examples=["meta-llama/Llama-3.1-8B-Instruct"])
    training_file: str = Field(examples=["file-6b1f0f5c2a7e4d3c9b10"])
    validation_file: str | None = None
    suffix: str | None = Field(None, max_length=64, description="Names the adapter.")
    seed: int | None = None
    metadata: Metadata | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = Field(
        None,
        json_schema_extra={"deprecated": True},  # pydantic's own would warn us, who must read it
        description="OpenAI's older place for those of `method`.",
    )
    integrations: list[Any] | None = Field(None, description="There are none here.")


def to_run(
    job: JobRequest, training: str, validation: str | None, form: PromptFormat
) -> RunRequest:
    """`training` and `validation` are ids of datasets, the rows of which have this `form`.

    Raises `InvalidRequest`, by the keys that the client has.
    """
    _require_supported(job)
    own = dict(job.model_extra or {})
    keys = {
        "base_model": job.model,
        "dataset_path": training,
        **({"validation_dataset_path": validation} if validation else {}),
        **({"name": job.suffix} if job.suffix else {}),
        **({"seed": job.seed} if job.seed is not None else {}),
        **({"metadata": job.metadata} if job.metadata else {}),
        **dict(_translated(_hyperparameters(job))),
    }
    if twice := [key for key in own if key in keys]:
        raise InvalidRequest(*(_said_twice(key) for key in twice))
    try:
        return RunRequest.model_validate({"prompt_format": form, **keys, **own})
    except ValidationError as error:
        found = explain(error.errors(), RunRequest.model_fields)
        renamed = (KeyProblem(_renamed(e.key, own), e.code, e.message) for e in found)
        raise InvalidRequest(*renamed) from None


def _hyperparameters(job: JobRequest) -> Hyperparameters:
    supervised = job.method.supervised if job.method else None
    return (supervised.hyperparameters if supervised else job.hyperparameters) or Hyperparameters()


def _translated(given: Hyperparameters) -> Iterator[tuple[str, Any]]:
    """What is `auto` is left to the run config's own defaults."""
    if given.n_epochs != "auto":
        yield "num_epochs", given.n_epochs
    if given.learning_rate_multiplier != "auto":
        yield "learning_rate", LEARNING_RATE * given.learning_rate_multiplier
    if given.batch_size != "auto":
        at_once = max(n for n in range(1, ROWS_AT_ONCE + 1) if given.batch_size % n == 0)
        yield "batch_size", at_once
        yield "gradient_accumulation_steps", given.batch_size // at_once


def _require_supported(job: JobRequest) -> None:
    if job.method is not None and job.method.type != "supervised":
        raise _unsupported("method.type", "only 'supervised' is")
    if job.integrations:
        raise _unsupported("integrations", "there are none")


def _unsupported(key: str, what: str) -> InvalidRequest:
    return InvalidRequest(KeyProblem(key, "invalid_value", f"not supported here; {what}"))


def _said_twice(key: str) -> KeyProblem:
    message = f"{key!r} says the same as {_KEYS.get(key, key)!r}: give one of them"
    return KeyProblem(key, "invalid_value", message)


def _renamed(key: str, own: dict[str, Any]) -> str:
    return key if key in own else _KEYS.get(key, key)
