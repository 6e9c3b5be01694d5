"""RunConfig -> Axolotl's configuration. Pure, and the only place that knows Axolotl's keys.

The values are those that FinLoRA's lora/finetune.py renders; docs/finlora.md lists each
deliberate difference with its reason.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from pathlib import Path
from typing import Any, Self

import yaml

from finlora_core.datasets.rows import PROMPT
from finlora_core.runs.config import ALL_LINEAR, Parallelism, Profile, PromptFormat, RunConfig
from finlora_core.training.base_model import BaseModelFacts, guess_from_name
from finlora_core.training.files import AttemptFiles
from finlora_core.training.memory import fits_uncheckpointed

PLUGIN = "worker.axolotl_plugin.FinLoRAPlugin"
LIGER = "axolotl.integrations.liger.LigerPlugin"

WARMUP_STEPS = 10
EVALS_PER_EPOCH = 4
CURVE_POINTS = 100
"""How many times a run logs its loss: enough to draw a curve. FinLoRA logs every 500 steps,
which for most of its datasets is not once."""


class Hardware(StrEnum):
    """What one run trains on."""

    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True)
class TrainingInput:
    """What the worker found for a run: everything the YAML needs beside the config."""

    base_model: str
    """A local folder, or the name on the hub while nothing has been fetched."""
    model: BaseModelFacts
    dataset: str
    dataset_rows: int
    validation_dataset: str | None = None
    resume_from: str | None = None
    """The folder of a whole checkpoint of the same config and dataset."""
    gpu_bytes: int | None = None
    """Memory of each GPU; None on a CPU, and while no worker has the run."""

    @classmethod
    def as_written(cls, config: RunConfig, rows: int) -> Self:
        """Everything by the name that the config has for it: nothing is at hand yet."""
        return cls(
            config.base_model,
            guess_from_name(config.base_model),
            config.dataset_path,
            rows,
            config.validation_dataset_path,
        )


def render(
    config: RunConfig, given: TrainingInput, files: AttemptFiles, hardware: Hardware
) -> dict[str, Any]:
    """The whole configuration as plain values, keys in the order they are written."""
    return {
        "base_model": given.base_model,
        **_tokenizer(config, given.model),
        **_data(config, given),
        "dataset_prepared_path": str(files.prepared),
        "dataset_num_proc": 0,  # in this process: each spawned one imports everything again
        "output_dir": str(files.output),
        **_quantization(config),
        **_lora(config),
        **_batches(config),
        **_schedule(config),
        "gradient_checkpointing": _checkpoints_gradients(config, given),
        **_precision(config, hardware),
        **_parallelism(config),
        **_rhythm(config, given.dataset_rows),
        "seed": config.seed,
        **_plugins(config, hardware),
        **({"resume_from_checkpoint": given.resume_from} if given.resume_from else {}),
    }


def to_yaml(rendered: dict[str, Any]) -> str:
    return yaml.safe_dump(rendered, sort_keys=False, allow_unicode=True)


def profile_changes(config: RunConfig) -> dict[str, tuple[Any, Any]]:
    """What the run's profile makes of FinLoRA's values on a GPU: key, from, to."""
    if config.profile is Profile.FAITHFUL:
        return {}  # most runs, of which a page may list a thousand
    given = TrainingInput.as_written(config, rows=1)
    faithful, chosen = (
        render(one, given, AttemptFiles(Path()), Hardware.CUDA)
        for one in (config.model_copy(update={"profile": Profile.FAITHFUL}), config)
    )
    return {
        key: (faithful.get(key), value)
        for key, value in chosen.items()
        if faithful.get(key) != value
    }


def steps_per_epoch(config: RunConfig, rows: int) -> int:
    """Optimizer steps, from the rows left after validation, unpacked."""
    training_rows = max(1, rows - ceil(rows * config.validation_share))
    rows_a_step = config.batch_size * config.gradient_accumulation_steps * config.gpus
    return max(1, ceil(training_rows / rows_a_step))


def total_steps(config: RunConfig, rows: int) -> int:
    steps = steps_per_epoch(config, rows) * config.num_epochs
    return min(steps, config.max_steps or steps)


def logging_steps(config: RunConfig, rows: int) -> int:
    return max(1, total_steps(config, rows) // CURVE_POINTS)


def _tokenizer(config: RunConfig, model: BaseModelFacts) -> dict[str, Any]:
    """What the model says of itself; for Llama 3 that is what FinLoRA writes.

    The tokenizer is not FinLoRA's LlamaTokenizerFast: with transformers 5 that class loses
    the spaces of a byte-level BPE such as Llama 3's.
    """
    return {
        **({"model_type": "LlamaForCausalLM"} if model.is_llama_3 else {}),
        "tokenizer_type": "AutoTokenizer",
        **_chat_template(config, model),
        **({"special_tokens": {"pad_token": model.pad_token}} if model.pad_token else {}),
    }


def _chat_template(config: RunConfig, model: BaseModelFacts) -> dict[str, Any]:
    """Only rows of messages are written in it; for all others it comes with the adapter."""
    if model.is_llama_3:
        return {"chat_template": "llama3"}
    if config.prompt_format is PromptFormat.CHAT:
        return {"chat_template": "tokenizer_default"}
    return {}


def _data(config: RunConfig, given: TrainingInput) -> dict[str, Any]:
    data: dict[str, Any] = {"datasets": [_rows(given.dataset, config.prompt_format)]}
    if given.validation_dataset:
        rows = _rows(given.validation_dataset, config.prompt_format)
        data["test_datasets"] = [{**rows, "split": "train"}]  # what a local file's only one is
    return {**data, "val_set_size": config.validation_share}


def _rows(path: str, form: PromptFormat) -> dict[str, Any]:
    return {"path": path, "ds_type": "json", **deepcopy(_FORMS[form])}


_FINLORA_ROW = {
    "system_prompt": "",
    "field_system": "system",
    "field_instruction": "context",
    "field_output": "target",
    "format": PROMPT,
    "no_input_format": PROMPT,
}

_FORMS: Mapping[PromptFormat, dict[str, Any]] = {
    PromptFormat.INSTRUCTION: {"type": _FINLORA_ROW},
    PromptFormat.ALPACA: {"type": "alpaca"},
    PromptFormat.CHAT: {
        "type": "chat_template",
        "field_messages": "messages",
        "roles_to_train": ["assistant"],
    },
}


def _quantization(config: RunConfig) -> dict[str, Any]:
    """4 bits need `qlora`: with FinLoRA's `lora` Axolotl 0.19 trains unquantised, silently."""
    return {
        "adapter": "qlora" if config.quant_bits == 4 else "lora",
        "load_in_8bit": config.quant_bits == 8,
        "load_in_4bit": config.quant_bits == 4,
    }


def _lora(config: RunConfig) -> dict[str, Any]:
    modules = config.lora_target_modules
    return {
        "lora_r": config.lora_r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        **(
            {"lora_target_linear": True}
            if modules == ALL_LINEAR
            else {"lora_target_modules": list(modules)}
        ),
        "peft_use_dora": config.peft_use_dora,
        "peft_use_rslora": config.peft_use_rslora,
    }


def _batches(config: RunConfig) -> dict[str, Any]:
    """Packed, several rows share one sequence and cannot see each other; the few rows to
    validate on are never packed, so that every one of them counts."""
    packs = config.profile is Profile.FAST
    return {
        "sequence_len": config.sequence_len,
        "sample_packing": packs,
        **({"eval_sample_packing": False} if packs else {}),
        "pad_to_sequence_len": packs,
        "micro_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "num_epochs": config.num_epochs,
        **({"max_steps": config.max_steps} if config.max_steps else {}),
    }


def _schedule(config: RunConfig) -> dict[str, Any]:
    return {
        "learning_rate": config.learning_rate,
        "lr_scheduler": config.lr_scheduler,
        **_warmup(config),
        "weight_decay": config.weight_decay,
    }


def _checkpoints_gradients(config: RunConfig, given: TrainingInput) -> bool:
    """As FinLoRA does; `fast` does without where the GPU is known to have the memory."""
    shape, gpu = given.model.shape, given.gpu_bytes
    if config.profile is Profile.FAITHFUL or shape is None or gpu is None:
        return True
    return not fits_uncheckpointed(shape, config, gpu)


def _warmup(config: RunConfig) -> dict[str, Any]:
    if config.warmup_ratio is not None:
        return {"warmup_ratio": config.warmup_ratio}
    steps = config.warmup_steps
    return {"warmup_steps": WARMUP_STEPS if steps is None else steps}


def _rhythm(config: RunConfig, rows: int) -> dict[str, Any]:
    """How often to validate, to save and to log."""
    logs = {"logging_steps": logging_steps(config, rows)}
    if not config.validates:
        return {"saves_per_epoch": 1, **logs}
    if config.early_stopping_patience is None:
        return {"evals_per_epoch": EVALS_PER_EPOCH, "saves_per_epoch": 1, **logs}
    every = max(1, steps_per_epoch(config, rows) // EVALS_PER_EPOCH)
    return {  # Axolotl stops early only where it saves as often as it validates
        "eval_steps": every,
        "save_steps": every,
        **_loss_patience(config),
        **logs,
    }


def _loss_patience(config: RunConfig) -> dict[str, Any]:
    """Axolotl's, which counts losses; where a task decides, the plugin counts."""
    if config.evaluation_task is not None:
        return {}
    return {"early_stopping_patience": config.early_stopping_patience}


def _plugins(config: RunConfig, hardware: Hardware) -> dict[str, Any]:
    """Liger's kernels are Triton's, for GPUs only. Not its gated layer: Axolotl's own kernel for
    LoRA takes that place."""
    if config.profile is Profile.FAITHFUL or hardware is Hardware.CPU:
        return {"plugins": [PLUGIN]}
    return {
        "plugins": [LIGER, PLUGIN],
        "liger_rope": True,
        "liger_rms_norm": True,
        "liger_fused_linear_cross_entropy": True,
    }


def _precision(config: RunConfig, hardware: Hardware) -> dict[str, Any]:
    """FinLoRA's values on a GPU. On a CPU: float32, torch's own AdamW, no Triton kernels
    (Axolotl turns those on by itself and then asks CUDA for a stream)."""
    attention = {"sdp_attention": True} if config.profile is Profile.FAST else {}
    if hardware is Hardware.CUDA:
        return {
            "optimizer": config.optimizer or _gpu_optimizer(config),
            "bf16": "auto",
            "tf32": False,
            "flash_attention": False,
            **attention,
        }
    return {
        "optimizer": config.optimizer or CPU_OPTIMIZERS[0],
        "bf16": False,
        "fp16": False,
        "tf32": False,
        "flash_attention": False,
        **attention,
        "lora_qkv_kernel": False,
        "lora_o_kernel": False,
        "lora_mlp_kernel": False,
        "dataloader_num_workers": 0,  # forking them costs more than the rows of a CPU run
        "dataloader_pin_memory": False,
    }


def _gpu_optimizer(config: RunConfig) -> str:
    """FinLoRA's, but with FSDP, which does not spread the state of optimizers of 8 bits."""
    return _GPU_OPTIMIZER[None if config.spread is Parallelism.FSDP else config.quant_bits]


def _parallelism(config: RunConfig) -> dict[str, Any]:
    """`ddp` needs no word: several processes that are told nothing else train so."""
    if config.spread is None or config.spread is Parallelism.DDP:
        return {}
    if config.spread.is_deepspeed:
        return {"deepspeed": str(DEEPSPEED / f"{config.spread}.json")}
    return {"fsdp_version": 2, "fsdp_config": dict(_FSDP)}


DEEPSPEED = Path(__file__).parent / "deepspeed"
"""One file for each ZeRO stage: Axolotl's package has none of those that FinLoRA names."""

_FSDP = {
    "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",  # at the layers that the model names itself
    "reshard_after_forward": True,
    "offload_params": False,
    "cpu_ram_efficient_loading": False,  # Axolotl refuses it for 4 bits
    "state_dict_type": "FULL_STATE_DICT",  # checkpoints hold the adapter whole
}

CPU_OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "adafactor")
"""Those that need no GPU."""

_GPU_OPTIMIZER = {4: "paged_adamw_8bit", 8: "adamw_bnb_8bit", None: "adamw_torch_fused"}
