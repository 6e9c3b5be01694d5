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
from enum import StrEnum
from pathlib import PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from finlora_core.errors import KeyProblem
from finlora_core.evaluation.tasks import tasks_and_metrics
from finlora_core.suggest import suggest

MAX_EPOCHS = 1000
MAX_BATCH = 4096
VALIDATION_SHARE = 0.02
"""FinLoRA's."""

MAX_SEQUENCE_LEN = 131_072
"""Tokens: the longest context of the models that FinLoRA tunes."""

MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a Llama block; Mistral, Qwen and Gemma name theirs the same."""

MAX_GPUS = 16
"""The most that one machine is built with."""

OPTIMIZERS_OF_8_BITS = ("adamw_bnb_8bit", "paged_adamw_8bit")

ALL_LINEAR = "all-linear"
CONTRADICTION = "contradiction"
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


def _modules(value: object) -> list[str] | str:
    if value == ALL_LINEAR:
        return ALL_LINEAR
    names = value if isinstance(value, list) else []
    if names and all(name in MODULES for name in names) and len(set(names)) == len(names):
        return names
    raise ValueError(
        f"must be {ALL_LINEAR!r}, or a list of some of {', '.join(MODULES)}, each once"
    )


def _task_or_metric(value: str) -> str:
    known = tasks_and_metrics()
    if value not in known:
        raise ValueError(f"must be a task or a metric; {suggest(value, known)}")
    return value


Line = Annotated[
    str, StringConstraints(min_length=1, max_length=1024), BeforeValidator(_printable)
]
ModelName = Annotated[
    str,
    StringConstraints(max_length=256),
    AfterValidator(_model_name),
    Field(json_schema_extra={"pattern": f"^{_SAFE}(/{_SAFE})?$"}),
]
RunName = Annotated[
    str,
    StringConstraints(max_length=128),
    AfterValidator(_safe_name),
    Field(json_schema_extra={"pattern": f"^{_SAFE}$"}),
]
TaskOrMetric = Annotated[
    str,
    AfterValidator(_task_or_metric),
    Field(json_schema_extra={"enum": list(tasks_and_metrics())}),
]
Rate = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Metadata = Annotated[
    dict[
        Annotated[str, StringConstraints(max_length=64), BeforeValidator(_printable)],
        Annotated[str, StringConstraints(max_length=512), BeforeValidator(_printable)],
    ],
    Field(max_length=16),
]
"""As much as OpenAI's jobs may have."""

Modules = Annotated[
    list[str] | str,
    PlainValidator(_modules),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "array",
                    "items": {"type": "string", "enum": list(MODULES)},
                    "minItems": 1,
                    "uniqueItems": True,
                },
                {"type": "string", "enum": [ALL_LINEAR]},
            ]
        }
    ),
]


class PromptFormat(StrEnum):
    """How a row of the dataset becomes a prompt and an answer."""

    INSTRUCTION = "instruction"
    ALPACA = "alpaca"
    CHAT = "chat"


class Profile(StrEnum):
    """Whose choice of what does not change the result in principle, but the speed."""

    FAITHFUL = "faithful"
    FAST = "fast"


class Parallelism(StrEnum):
    """How one run's training is spread over several GPUs."""

    DDP = "ddp"
    ZERO1 = "zero1"
    ZERO2 = "zero2"
    ZERO3 = "zero3"
    FSDP = "fsdp"

    @property
    def is_deepspeed(self) -> bool:
        return self.value.startswith("zero")

    @property
    def shards_weights(self) -> bool:
        return self in (Parallelism.ZERO3, Parallelism.FSDP)


class RunConfig(BaseModel):
    """One FinLoRA run config. Frozen, strict (no bool for an int), no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    base_model: ModelName = Field(
        description="`<org>/<model>`: looked for in the models folders, then on the hub."
    )
    dataset_path: Line = Field(
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
    prompt_format: PromptFormat = Field(
        PromptFormat.INSTRUCTION,
        strict=False,
        description="What a row holds: `context` and `target` (FinLoRA's, as `[INST] … [/INST]`); "
        "`instruction`, `input` and `output` (alpaca); or `messages` (chat, in the base model's "
        "own chat template).",
    )
    lora_dropout: Share = Field(0.05, description="Of the adapter's inputs, in training.")
    lora_target_modules: Modules = Field(
        ["q_proj", "v_proj", "k_proj"],
        description="The layers that get an adapter: a list of names, or `all-linear`.",
    )
    sequence_len: int = Field(
        4096,
        ge=16,
        le=MAX_SEQUENCE_LEN,
        description="Tokens; longer rows are left out, and counted.",
    )
    validation_dataset_path: Line | None = Field(
        None, description="A dataset of its own to validate on, in the same form."
    )
    val_set_size: Share | None = Field(
        None,
        description="Share of the rows that is kept out of training to validate on. Default: "
        "0.02, or none with `validation_dataset_path`.",
    )
    max_steps: int | None = Field(None, ge=1, description="Stop here, even amid an epoch.")
    early_stopping_patience: int | None = Field(
        None,
        ge=1,
        description="Stop after this many validations without a lower loss; the adapter is that "
        "of the last step. With `evaluation_task`: after this many evaluations that were no "
        "better than the best one before them.",
    )
    evaluation_task: TaskOrMetric | None = Field(
        None,
        description="One of FinLoRA's evaluation tasks, or for rows of your own a metric "
        "(docs/evaluation.md). At each save that is due by steps the rows kept out of training "
        "are answered, and the adapter of the best such step is published.",
    )
    lr_scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    warmup_steps: int | None = Field(
        None, ge=0, description="Default: 10, unless `warmup_ratio` is given."
    )
    warmup_ratio: Share | None = Field(None, description="Warm-up as a share of all steps.")
    weight_decay: Share = 0.0
    optimizer: (
        Literal[
            "adamw_torch",
            "adamw_torch_fused",
            "adamw_bnb_8bit",
            "paged_adamw_8bit",
            "adafactor",
        ]
        | None
    ) = Field(
        None,
        description="Default: FinLoRA's, `paged_adamw_8bit` with 4 bits, `adamw_bnb_8bit` with 8, "
        "else `adamw_torch_fused`; on a CPU `adamw_torch`.",
    )
    profile: Profile = Field(
        Profile.FAITHFUL,
        strict=False,
        description="`faithful` trains as FinLoRA's script does; `fast` packs rows and spends "
        "memory for speed.",
    )

    gpus: int = Field(
        1,
        ge=1,
        le=MAX_GPUS,
        description="How many GPUs of one machine train it together, each with `batch_size` rows "
        "at once.",
    )
    parallelism: Parallelism | None = Field(
        None,
        strict=False,
        description="How several GPUs share the training: each with a whole copy (`ddp`), "
        "DeepSpeed's ZeRO stages, or `fsdp`. Default: FinLoRA's, `zero1`.",
    )

    @model_validator(mode="after")
    def _keys_agree(self) -> Self:
        if self.warmup_steps is not None and self.warmup_ratio is not None:
            raise contradiction("warmup_ratio", "give warmup_steps or warmup_ratio, not both")
        if self.validation_dataset_path is not None and self.val_set_size:
            raise contradiction(
                "val_set_size", "give validation_dataset_path or val_set_size, not both"
            )
        if self.early_stopping_patience is not None and not self.validates:
            raise contradiction(
                "early_stopping_patience",
                "needs something to validate on: val_set_size above 0 or validation_dataset_path",
            )
        if self.evaluation_task is not None and not self.validates:
            raise contradiction(
                "evaluation_task",
                "needs rows kept out of training: val_set_size above 0 or validation_dataset_path",
            )
        return self

    @model_validator(mode="after")
    def _gpus_agree(self) -> Self:
        if self.parallelism is not None and self.gpus == 1:
            raise contradiction("parallelism", "needs more than one GPU: give `gpus`, too")
        spread = self.spread
        if spread and spread.shards_weights and self.quant_bits == 8:
            raise contradiction(
                "parallelism",
                f"{spread} spreads the weights over the GPUs, which those of 8 bits do not take: "
                "use quant_bits 4 or none, or ddp, zero1 or zero2",
            )
        if spread and spread.shards_weights and self.evaluation_task is not None:
            raise contradiction(
                "evaluation_task",
                f"{spread} spreads the weights over the GPUs, and none has a whole model that "
                "could answer: use ddp, zero1 or zero2",
            )
        if spread is Parallelism.FSDP and self.optimizer in OPTIMIZERS_OF_8_BITS:
            raise contradiction("optimizer", f"fsdp does not spread {self.optimizer}'s state")
        return self

    @property
    def spread(self) -> Parallelism | None:
        """How the training is spread; None on one GPU."""
        return None if self.gpus == 1 else self.parallelism or Parallelism.ZERO1

    @property
    def validation_share(self) -> float:
        """Of the rows."""
        if self.val_set_size is None:
            return 0.0 if self.validation_dataset_path else VALIDATION_SHARE
        return self.val_set_size

    @property
    def validates(self) -> bool:
        return self.validation_share > 0 or self.validation_dataset_path is not None

    @property
    def variant(self) -> str:
        """The folder FinLoRA keeps such adapters in: `8bits_r8_dora`."""
        return variant_name(
            self.quant_bits, self.lora_r, dora=self.peft_use_dora, rslora=self.peft_use_rslora
        )

    @property
    def sha256(self) -> str:
        """Of the config as sorted JSON, defaults left out: a key that a later version adds
        changes the hash of no config that does without it."""
        text = json.dumps(self.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class Treatment(BaseModel):
    """How a run of any kind is to be treated, and what it is called."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: RunName | None = Field(None, description="What the run is called.")
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
        description="Stop the run, with a checkpoint where it trains, after this much time on "
        "workers in all.",
    )
    metadata: Metadata | None = Field(
        None, description="Your own words for the run: up to 16, shown with it and never read."
    )


class RunRequest(RunConfig, Treatment):
    """What POST /runs takes: a run config, a name for it, and how it is to be treated."""

    name: RunName | None = Field(
        None,
        description="Names the adapter's folder. Default: dataset and base model, "
        "`sentiment_train_llama_3_1_8b_instruct`.",
    )

    @property
    def config(self) -> RunConfig:
        return RunConfig.model_validate(self.model_dump(include=set(RunConfig.model_fields)))

    @property
    def run_name(self) -> str:
        return self.name or default_name(self)


def variant_name(quant_bits: int | None, rank: int, *, dora: bool, rslora: bool) -> str:
    """As FinLoRA names the folders of its adapters: `4bits_r4`, `8bits_r8_dora`, `fp16_r8`."""
    bits = f"{quant_bits}bits" if quant_bits else "fp16"
    return f"{bits}_r{rank}{'_dora' if dora else ''}{'_rslora' if rslora else ''}"


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


def contradiction(key: str, message: str) -> PydanticCustomError:
    """Of two keys, each fine by itself; `key` is the one to name."""
    return PydanticCustomError(CONTRADICTION, "{message}", {"key": key, "message": message})


def _explain_one(error: Mapping[str, Any], known: tuple[str, ...]) -> KeyProblem:
    if error["type"] == CONTRADICTION:
        return KeyProblem(error["ctx"]["key"], "invalid_value", error["ctx"]["message"])
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return KeyProblem(key, "unknown_key", f"unknown key{_did_you_mean(key, known)}")
    if error["type"] == "missing":
        return KeyProblem(key, "missing_key", "this key is required")
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return KeyProblem(key, "invalid_value", message)


def _did_you_mean(key: str, known: tuple[str, ...]) -> str:
    near = get_close_matches(key.lower(), known, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known keys: {', '.join(sorted(known)) or 'none'}"
