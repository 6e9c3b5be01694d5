"""RunConfig -> Axolotl's configuration. Pure, and the only place that knows Axolotl's keys.

The values are those that FinLoRA's lora/finetune.py renders; docs/finlora.md lists each
deliberate difference with its reason.
"""

from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from typing import Any

import yaml

from finlora_core.runs.config import RunConfig
from finlora_core.training.files import AttemptFiles

PLUGIN = "worker.axolotl_plugin.FinLoRAPlugin"

PROMPT = "[INST] {instruction} [/INST]"
TARGET_MODULES = ("q_proj", "v_proj", "k_proj")
LORA_DROPOUT = 0.05
VALIDATION_SHARE = 0.02
SEQUENCE_LEN = 4096  # tokens
WARMUP_STEPS = 10
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
    dataset: str
    dataset_rows: int
    resume_from: str | None = None
    """The folder of a whole checkpoint of the same config and dataset."""


def render(
    config: RunConfig, given: TrainingInput, files: AttemptFiles, hardware: Hardware
) -> dict[str, Any]:
    """The whole configuration as plain values, keys in the order they are written."""
    return {
        "base_model": given.base_model,
        **_family(config),
        "datasets": [_dataset(given)],
        "dataset_prepared_path": str(files.prepared),
        "dataset_num_proc": 0,  # in this process: each spawned one imports everything again
        "val_set_size": VALIDATION_SHARE,
        "output_dir": str(files.output),
        **_quantization(config),
        **_lora(config),
        "sequence_len": SEQUENCE_LEN,
        "sample_packing": False,
        "pad_to_sequence_len": False,
        "micro_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "num_epochs": config.num_epochs,
        "learning_rate": config.learning_rate,
        "lr_scheduler": "cosine",
        "warmup_steps": WARMUP_STEPS,
        "weight_decay": 0.0,
        "gradient_checkpointing": True,
        **_precision(config, hardware),
        "evals_per_epoch": 4,
        "saves_per_epoch": 1,
        "logging_steps": logging_steps(config, given.dataset_rows),
        "seed": config.seed,
        "plugins": [PLUGIN],
        **({"resume_from_checkpoint": given.resume_from} if given.resume_from else {}),
    }


def to_yaml(rendered: dict[str, Any]) -> str:
    return yaml.safe_dump(rendered, sort_keys=False, allow_unicode=True)


def total_steps(config: RunConfig, rows: int) -> int:
    """Optimizer steps of the run on one device, from the rows left after validation."""
    training_rows = max(1, rows - ceil(rows * VALIDATION_SHARE))
    rows_a_step = config.batch_size * config.gradient_accumulation_steps
    return max(1, ceil(training_rows / rows_a_step)) * config.num_epochs


def logging_steps(config: RunConfig, rows: int) -> int:
    return max(1, total_steps(config, rows) // CURVE_POINTS)


def _family(config: RunConfig) -> dict[str, Any]:
    """FinLoRA's rule for Llama 3.

    The tokenizer is not FinLoRA's LlamaTokenizerFast: with transformers 5 that class loses
    the spaces of a byte-level BPE such as Llama 3's.
    """
    if "Llama-3" not in config.base_model:
        return {"tokenizer_type": "AutoTokenizer"}
    return {
        "model_type": "LlamaForCausalLM",
        "tokenizer_type": "AutoTokenizer",
        "chat_template": "llama3",
        "special_tokens": {"pad_token": "<|end_of_text|>"},
    }


def _dataset(given: TrainingInput) -> dict[str, Any]:
    return {
        "path": given.dataset,
        "ds_type": "json",
        "type": {
            "system_prompt": "",
            "field_system": "system",
            "field_instruction": "context",
            "field_output": "target",
            "format": PROMPT,
            "no_input_format": PROMPT,
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
    return {
        "lora_r": config.lora_r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": LORA_DROPOUT,
        "lora_target_modules": list(TARGET_MODULES),
        "peft_use_dora": config.peft_use_dora,
        "peft_use_rslora": config.peft_use_rslora,
    }


def _precision(config: RunConfig, hardware: Hardware) -> dict[str, Any]:
    """FinLoRA's values on a GPU. On a CPU: float32, torch's own AdamW, no Triton kernels
    (Axolotl turns those on by itself and then asks CUDA for a stream)."""
    if hardware is Hardware.CUDA:
        return {
            "optimizer": _GPU_OPTIMIZER[config.quant_bits],
            "bf16": "auto",
            "tf32": False,
            "flash_attention": False,
        }
    return {
        "optimizer": "adamw_torch",
        "bf16": False,
        "fp16": False,
        "tf32": False,
        "flash_attention": False,
        "lora_qkv_kernel": False,
        "lora_o_kernel": False,
        "lora_mlp_kernel": False,
        "dataloader_num_workers": 0,  # forking them costs more than the rows of a CPU run
        "dataloader_pin_memory": False,
    }


_GPU_OPTIMIZER = {4: "paged_adamw_8bit", 8: "adamw_bnb_8bit", None: "adamw_torch_fused"}
