"""What a user may ask for: FinLoRA's run config as a closed schema.

Axolotl's own YAML can load plugins and remote code, so users never write it;
they write a `RunConfig`, and `finlora_core.training.axolotl` renders it. The
defaults are those of FinLoRA's lora/finetune.py.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import PurePath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)

from finlora_core.errors import KeyProblem

MAX_EPOCHS = 1000
MAX_BATCH = 4096
_SAFE = r"[A-Za-z0-9_][A-Za-z0-9._-]*"


def _printable(value: object) -> object:
    if isinstance(value, str) and not value.isprintable():
        raise ValueError("must not contain control characters")
    return value


def _model_name(value: str) -> str:
    if not re.fullmatch(rf"{_SAFE}(/{_SAFE})?", value):
        raise ValueError("must be <org>/<model> in letters, digits, '.', '_' and '-'")
    return value


def _safe_name(value: str) -> str:
    if not re.fullmatch(_SAFE, value):
        raise ValueError("must be letters, digits, '.', '_', '-'; neither '.' nor '-' first")
    return value


_Text = Annotated[
    str, StringConstraints(min_length=1, max_length=1024), BeforeValidator(_printable)
]
ModelName = Annotated[str, StringConstraints(max_length=256), AfterValidator(_model_name)]
RunName = Annotated[str, StringConstraints(max_length=128), AfterValidator(_safe_name)]
Rate = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]


class RunConfig(BaseModel):
    """One FinLoRA run config. Frozen, strict (no bool for an int), no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    base_model: ModelName = Field(
        description="`<org>/<model>`: looked for in the models folders, then on the hub."
    )
    dataset_path: _Text = Field(
        description="JSON lines of `{context, target}`, inside one of the dataset roots. "
        "FinLoRA's `../data/train/x.jsonl` works when a root is a FinLoRA checkout."
    )
    lora_r: int = Field(8, ge=1, le=1024, description="Rank of the adapter.")
    lora_alpha: int = Field(16, ge=1, le=8192, description="Scale of the adapter.")
    quant_bits: Literal[4, 8] | None = Field(
        None, description="Bits of the frozen base: 4 (QLoRA), 8, or none for 16-bit LoRA."
    )
    learning_rate: Rate = Field(2e-4, description="Peak of the cosine schedule.")
    num_epochs: int = Field(4, ge=1, le=MAX_EPOCHS)
    batch_size: int = Field(2, ge=1, le=MAX_BATCH, description="Rows a device takes at once.")
    gradient_accumulation_steps: int = Field(
        4, ge=1, le=MAX_BATCH, description="Batches summed up before each optimizer step."
    )
    peft_use_dora: bool = Field(False, description="Weight-decomposed LoRA (DoRA).")
    peft_use_rslora: bool = Field(False, description="Rank-stabilised scaling (rsLoRA).")
    seed: int = Field(42, ge=0, lt=2**32, description="Same config, data and seed: same adapter.")

    @property
    def variant(self) -> str:
        """The folder FinLoRA keeps such adapters in: `8bits_r8_dora`."""
        bits = f"{self.quant_bits}bits" if self.quant_bits else "fp16"
        dora = "_dora" if self.peft_use_dora else ""
        rslora = "_rslora" if self.peft_use_rslora else ""
        return f"{bits}_r{self.lora_r}{dora}{rslora}"

    @property
    def sha256(self) -> str:
        """Of the config as sorted JSON: equal configs have equal hashes."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class RunRequest(RunConfig):
    """What POST /runs takes: a run config, a name for it, and how it is to be treated."""

    name: RunName | None = Field(
        None,
        description="Names the adapter's folder. Default: dataset and base model, "
        "`sentiment_train_llama_3_1_8b_instruct`.",
    )

    priority: int = Field(
        0,
        ge=-100,
        le=100,
        description="Among your own queued runs, the higher goes first. Between owners the "
        "workers are shared in turns, whatever the priorities.",
    )
    time_limit_seconds: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="Stop the run, with a checkpoint, after this much time on workers in all.",
    )

    @property
    def config(self) -> RunConfig:
        return RunConfig.model_validate(self.model_dump(include=set(RunConfig.model_fields)))

    @property
    def run_name(self) -> str:
        return self.name or default_name(self)


def default_name(config: RunConfig) -> str:
    """Dataset and base model, in the way FinLoRA names its configs."""
    parts = (PurePath(config.dataset_path).stem, PurePath(config.base_model).name)
    slug = re.sub(r"[^a-z0-9]+", "_", "_".join(parts).lower()).strip("_")
    return slug[:128] or "run"


def explain(errors: Iterable[Mapping[str, Any]], known: Iterable[str]) -> tuple[KeyProblem, ...]:
    """Pydantic's errors as key, stable code and a sentence a person can act on.

    `known` are the keys the request may have: an unknown one gets the nearest of them.
    The offending value is never echoed: it may be a secret in the wrong place.
    """
    names = tuple(known)
    return tuple(_explain_one(error, names) for error in errors)


def _explain_one(error: Mapping[str, Any], known: tuple[str, ...]) -> KeyProblem:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return KeyProblem(key, "unknown_key", f"unknown key{_did_you_mean(key, known)}")
    if error["type"] == "missing":
        return KeyProblem(key, "missing_key", "this key is required")
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return KeyProblem(key, "invalid_value", message)


def _did_you_mean(key: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(key.lower(), known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(sorted(known))}"
