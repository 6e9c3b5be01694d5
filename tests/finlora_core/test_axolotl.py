"""What Axolotl is told: FinLoRA's values, and no key that Axolotl does not know."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from finlora_core.runs.config import RunConfig
from finlora_core.training.axolotl import (
    DEEPSPEED,
    LIGER,
    PLUGIN,
    Hardware,
    TrainingInput,
    logging_steps,
    profile_changes,
    render,
    to_yaml,
    total_steps,
)
from finlora_core.training.base_model import BaseModelFacts
from finlora_core.training.files import AttemptFiles
from tests.finlora_core.test_memory import LLAMA_8B

FILES = AttemptFiles(Path("/runs/run_1/attempt-1"))
LLAMA_3 = BaseModelFacts(is_llama_3=True, pad_token="<|end_of_text|>")
GIVEN = TrainingInput("/models/llama", LLAMA_3, "/data/x.jsonl", dataset_rows=1000)

# the rest of each is the same in FinLoRA's lora/finetune_configs.json
FINLORA: dict[str, dict[str, Any]] = {
    "4bits_r4": {"quant_bits": 4, "lora_r": 4},
    "8bits_r8": {"quant_bits": 8},
    "8bits_r8_dora": {"quant_bits": 8, "peft_use_dora": True},
    "8bits_r8_dora_a32": {"quant_bits": 8, "peft_use_dora": True, "lora_alpha": 32},
    "8bits_r8_rslora": {"quant_bits": 8, "peft_use_rslora": True},
}
FP16: dict[str, Any] = {"quant_bits": None}
ALL = {**FINLORA, "fp16_r8": FP16}

# what FinLoRA's lora/finetune.py renders for each of them, where we render the same
SAME_FOR_ALL = {
    "model_type": "LlamaForCausalLM",
    "chat_template": "llama3",
    "special_tokens": {"pad_token": "<|end_of_text|>"},
    "val_set_size": 0.02,
    "lora_dropout": 0.05,
    "lora_target_modules": ["q_proj", "v_proj", "k_proj"],
    "sequence_len": 4096,
    "sample_packing": False,
    "pad_to_sequence_len": False,
    "micro_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "num_epochs": 4,
    "learning_rate": 1e-4,
    "lr_scheduler": "cosine",
    "warmup_steps": 10,
    "weight_decay": 0.0,
    "gradient_checkpointing": True,
    "evals_per_epoch": 4,
    "saves_per_epoch": 1,
    "bf16": "auto",
    "tf32": False,
    "flash_attention": False,
}
OF_EACH = ("lora_r", "lora_alpha", "load_in_8bit", "load_in_4bit", "optimizer", "peft_use_dora",
           "peft_use_rslora")  # fmt: skip
FROM_FINLORA = {
    "4bits_r4": (4, 16, False, True, "paged_adamw_8bit", False, False),
    "8bits_r8": (8, 16, True, False, "adamw_bnb_8bit", False, False),
    "8bits_r8_dora": (8, 16, True, False, "adamw_bnb_8bit", True, False),
    "8bits_r8_dora_a32": (8, 32, True, False, "adamw_bnb_8bit", True, False),
    "8bits_r8_rslora": (8, 16, True, False, "adamw_bnb_8bit", False, True),
    "fp16_r8": (8, 16, False, False, "adamw_torch_fused", False, False),
}
OURS = {
    "adapter",  # qlora for 4 bits, or Axolotl does not quantise
    "base_model", "datasets", "dataset_prepared_path", "output_dir",  # paths of the worker
    "dataset_num_proc", "plugins", "seed",  # not in FinLoRA's
    "logging_steps",  # often enough for a curve
    "tokenizer_type",  # FinLoRA's loses the spaces
}  # fmt: skip

RESUME = "resume_from_checkpoint"


def config(**keys: Any) -> RunConfig:
    least = {"base_model": "meta-llama/Llama-3.1-8B-Instruct", "dataset_path": "x.jsonl"}
    batch = {"learning_rate": 1e-4, "batch_size": 4, "gradient_accumulation_steps": 2}
    return RunConfig.model_validate({**least, **batch, **keys})


def rendered(hardware: Hardware = Hardware.CUDA, **keys: Any) -> dict[str, Any]:
    return render(config(**keys), GIVEN, FILES, hardware)


@pytest.mark.parametrize("variant", ALL)
def test_on_a_gpu_the_values_are_finloras(variant: str) -> None:
    found = rendered(**ALL[variant])
    of_each = dict(zip(OF_EACH, FROM_FINLORA[variant], strict=True))
    assert {key: found[key] for key in found.keys() - OURS} == {**SAME_FOR_ALL, **of_each}
    assert found.keys() >= OURS


@pytest.mark.parametrize(("bits", "adapter"), [(4, "qlora"), (8, "lora"), (None, "lora")])
@pytest.mark.parametrize("hardware", Hardware)
def test_4_bits_are_qlora_since_axolotl_quantises_to_4_bits_for_nothing_else(
    bits: int | None, adapter: str, hardware: Hardware
) -> None:
    assert rendered(hardware, quant_bits=bits)["adapter"] == adapter


@pytest.mark.parametrize("variant", ALL)
def test_on_a_cpu_only_precision_optimizer_and_gpu_kernels_differ(variant: str) -> None:
    gpu, cpu = (rendered(hardware, **ALL[variant]) for hardware in (Hardware.CUDA, Hardware.CPU))
    differing = {key: cpu[key] for key in cpu if key not in gpu or gpu[key] != cpu[key]}
    assert gpu.keys() <= cpu.keys()
    assert differing == {
        "optimizer": "adamw_torch",
        "bf16": False,
        "fp16": False,
        "lora_qkv_kernel": False,
        "lora_o_kernel": False,
        "lora_mlp_kernel": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
    }


OTHER = BaseModelFacts(is_llama_3=False)


def rendered_for(model: BaseModelFacts, **keys: Any) -> dict[str, Any]:
    return render(config(**keys), replace(GIVEN, model=model), FILES, Hardware.CUDA)


def test_only_llama_3_gets_llama_3s_template_and_padding() -> None:
    found = rendered_for(OTHER)
    assert found.keys().isdisjoint({"model_type", "chat_template", "special_tokens"})


def test_a_model_is_padded_with_what_its_vocabulary_has() -> None:
    padded = BaseModelFacts(is_llama_3=False, pad_token="<unk>")
    assert rendered_for(padded)["special_tokens"] == {"pad_token": "<unk>"}


@pytest.mark.parametrize("model", [LLAMA_3, OTHER])
def test_the_tokenizer_is_the_models_own_since_finloras_loses_spaces(
    model: BaseModelFacts,
) -> None:
    assert rendered_for(model)["tokenizer_type"] == "AutoTokenizer"


@pytest.mark.parametrize(
    ("model", "template"), [(LLAMA_3, "llama3"), (OTHER, "tokenizer_default")]
)
def test_messages_are_written_in_the_models_own_template(
    model: BaseModelFacts, template: str
) -> None:
    found = rendered_for(model, prompt_format="chat")
    assert found["chat_template"] == template
    assert found["datasets"][0]["type"] == "chat_template"
    assert found["datasets"][0]["roles_to_train"] == ["assistant"]


def test_a_row_becomes_finloras_prompt() -> None:
    (dataset,) = rendered()["datasets"]
    assert dataset == {
        "path": "/data/x.jsonl",
        "ds_type": "json",
        "type": {
            "system_prompt": "",
            "field_system": "system",
            "field_instruction": "context",
            "field_output": "target",
            "format": "[INST] {instruction} [/INST]",
            "no_input_format": "[INST] {instruction} [/INST]",
        },
    }


def test_training_reads_what_the_worker_found_and_writes_into_its_attempts_folder() -> None:
    found = rendered(seed=7)
    assert found["base_model"] == "/models/llama"
    assert found["output_dir"] == "/runs/run_1/attempt-1/output"
    assert found["dataset_prepared_path"] == "/runs/run_1/attempt-1/prepared"
    assert found["plugins"] == [PLUGIN]
    assert found["seed"] == 7


def test_only_a_training_that_goes_on_from_a_checkpoint_names_one() -> None:
    checkpoint = "/runs/run_1/checkpoints/attempt-1/checkpoint-120"
    resumed = render(config(), replace(GIVEN, resume_from=checkpoint), FILES, Hardware.CUDA)
    assert resumed == {**rendered(), RESUME: checkpoint}


@pytest.mark.parametrize(
    ("rows", "batch", "accumulation", "epochs", "steps"),
    [
        (1000, 2, 4, 4, 492),  # 20 rows for validation, 980 / 8 = 122.5, so 123 an epoch
        (100, 8, 2, 1, 7),  # 2 for validation, 98 / 16 = 6.1
        (98, 8, 2, 1, 6),  # 2 (1.96) for validation, 96 / 16 = 6
        (51, 1, 1, 3, 147),  # 2 (1.02) for validation, 49 an epoch
        (50, 1, 1, 1, 49),  # 1 for validation
        (2, 4, 4, 5, 5),  # at least one step an epoch
        (1, 1, 1, 1, 1),
    ],
)
def test_the_steps_of_a_run_are_known_before_it_trains(
    rows: int, batch: int, accumulation: int, epochs: int, steps: int
) -> None:
    run = config(batch_size=batch, gradient_accumulation_steps=accumulation, num_epochs=epochs)
    assert total_steps(run, rows) == steps


@pytest.mark.parametrize(
    ("rows", "every"),
    [(10, 1), (1000, 4), (100_000, 490)],  # of 8, 492 and 49,000 steps
)
def test_a_run_logs_often_enough_for_a_curve(rows: int, every: int) -> None:
    assert logging_steps(config(), rows) == every
    given = replace(GIVEN, dataset_rows=rows)
    assert render(config(), given, FILES, Hardware.CPU)["logging_steps"] == every


@pytest.mark.parametrize("variant", ALL)
@pytest.mark.parametrize("hardware", Hardware)
def test_the_yaml_says_what_was_rendered(variant: str, hardware: Hardware) -> None:
    found = rendered(hardware, **ALL[variant])
    text = to_yaml(found)
    assert yaml.safe_load(text) == found
    assert list(yaml.safe_load(text)) == list(found)


@pytest.mark.parametrize("path", ["/data/yes", "/data/a: b #c", "/data/1e3", "/d/財務.jsonl"])
def test_no_path_can_change_the_meaning_of_the_yaml(path: str) -> None:
    given = replace(GIVEN, base_model=path, dataset=path)
    text = to_yaml(render(config(), given, FILES, Hardware.CPU))
    assert yaml.safe_load(text)["base_model"] == path
    assert yaml.safe_load(text)["datasets"][0]["path"] == path


# what a key makes of the YAML: given, then what changes against the defaults
KEYS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"lora_dropout": 0.0}, {"lora_dropout": 0.0}),
    ({"lora_target_modules": ["o_proj"]}, {"lora_target_modules": ["o_proj"]}),
    (
        {"lora_target_modules": "all-linear"},
        {"lora_target_modules": None, "lora_target_linear": True},
    ),
    ({"sequence_len": 512}, {"sequence_len": 512}),
    ({"val_set_size": 0.1}, {"val_set_size": 0.1, "logging_steps": 4}),
    ({"val_set_size": 0}, {"val_set_size": 0, "evals_per_epoch": None, "logging_steps": 5}),
    ({"max_steps": 7}, {"max_steps": 7, "logging_steps": 1}),
    ({"lr_scheduler": "constant"}, {"lr_scheduler": "constant"}),
    ({"warmup_steps": 0}, {"warmup_steps": 0}),
    ({"warmup_ratio": 0.1}, {"warmup_steps": None, "warmup_ratio": 0.1}),
    ({"weight_decay": 0.01}, {"weight_decay": 0.01}),
    ({"optimizer": "adafactor"}, {"optimizer": "adafactor"}),
    (
        {"early_stopping_patience": 3},
        {
            "early_stopping_patience": 3,
            "evals_per_epoch": None,
            "saves_per_epoch": None,
            "eval_steps": 30,
            "save_steps": 30,
        },
    ),
    ({"evaluation_task": "tfns"}, {}),
    (
        {"evaluation_task": "tfns", "early_stopping_patience": 3},
        {"evals_per_epoch": None, "saves_per_epoch": None, "eval_steps": 30, "save_steps": 30},
    ),
    (
        {"profile": "fast"},
        {
            "sample_packing": True,
            "eval_sample_packing": False,
            "pad_to_sequence_len": True,
            "sdp_attention": True,
            "plugins": [LIGER, PLUGIN],
            "liger_rope": True,
            "liger_rms_norm": True,
            "liger_fused_linear_cross_entropy": True,
        },
    ),
    ({"gpus": 4}, {"deepspeed": str(DEEPSPEED / "zero1.json"), "logging_steps": 1}),
    ({"gpus": 4, "parallelism": "ddp"}, {"logging_steps": 1}),
    *(
        (
            {"gpus": 2, "parallelism": stage},
            {"deepspeed": str(DEEPSPEED / f"{stage}.json"), "logging_steps": 2},
        )
        for stage in ("zero2", "zero3")
    ),
    (
        {"gpus": 2, "parallelism": "fsdp"},
        {
            "fsdp_version": 2,
            "fsdp_config": {
                "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "reshard_after_forward": True,
                "offload_params": False,
                "cpu_ram_efficient_loading": False,
                "state_dict_type": "FULL_STATE_DICT",
            },
            "logging_steps": 2,
        },
    ),
]


@pytest.mark.parametrize(("given", "changed"), KEYS, ids=lambda keys: "+".join(keys))
def test_a_key_changes_what_it_says_and_nothing_else(
    given: dict[str, Any], changed: dict[str, Any]
) -> None:
    before, after = rendered(), rendered(**given)
    differing = {
        key: after.get(key) for key in before | after if before.get(key) != after.get(key)
    }
    assert differing == {key: value for key, value in changed.items() if before.get(key) != value}


def test_the_fast_profile_says_what_it_changes() -> None:
    assert profile_changes(config()) == {}
    assert profile_changes(config(profile="fast")) == {
        "sample_packing": (False, True),
        "eval_sample_packing": (None, False),
        "pad_to_sequence_len": (False, True),
        "sdp_attention": (None, True),
        "plugins": ([PLUGIN], [LIGER, PLUGIN]),
        "liger_rope": (None, True),
        "liger_rms_norm": (None, True),
        "liger_fused_linear_cross_entropy": (None, True),
    }


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_each_zero_stage_has_its_file(stage: int) -> None:
    content = json.loads((DEEPSPEED / f"zero{stage}.json").read_text())
    assert content["zero_optimization"]["stage"] == stage
    assert content["train_micro_batch_size_per_gpu"] == "auto"  # else it would overrule the run's


def test_fsdp_takes_no_optimizer_of_8_bits() -> None:
    keys: dict[str, Any] = {"quant_bits": 4, "gpus": 2}
    assert rendered(**keys)["optimizer"] == "paged_adamw_8bit"
    assert rendered(**keys, parallelism="fsdp")["optimizer"] == "adamw_torch_fused"


@pytest.mark.parametrize(
    ("profile", "gpu_gib", "checkpoints"),
    [("fast", 80, False), ("fast", 24, True), ("fast", None, True), ("faithful", 80, True)],
)
def test_only_fast_keeps_activations_and_only_where_they_are_known_to_fit(
    profile: str, gpu_gib: int | None, checkpoints: bool
) -> None:
    model = replace(LLAMA_3, shape=LLAMA_8B)
    given = replace(GIVEN, model=model, gpu_bytes=gpu_gib and gpu_gib * 2**30)
    run = config(profile=profile, quant_bits=4, batch_size=1)
    found = render(run, given, FILES, Hardware.CUDA)
    assert found["gradient_checkpointing"] is checkpoints


def test_a_dataset_of_its_own_to_validate_on_takes_no_rows_from_training() -> None:
    given = replace(GIVEN, validation_dataset="/data/v.jsonl")
    keys = {"validation_dataset_path": "v.jsonl"}
    found = render(config(**keys), given, FILES, Hardware.CUDA)
    (validation,) = found["test_datasets"]
    assert validation == {**found["datasets"][0], "path": "/data/v.jsonl", "split": "train"}
    assert found["val_set_size"] == 0
    assert found["evals_per_epoch"] == 4


def test_no_run_can_change_what_the_next_one_gets() -> None:
    first = rendered()
    first["lora_target_modules"].append("o_proj")
    first["datasets"][0]["type"]["format"] = "{instruction}"
    first["special_tokens"].clear()
    first["plugins"].clear()
    assert rendered() != first
    assert rendered()["lora_target_modules"] == ["q_proj", "v_proj", "k_proj"]
    assert rendered()["special_tokens"] == {"pad_token": "<|end_of_text|>"}


# Axolotl ignores a key it does not know: a misspelt or renamed one would train something else.
# Its packages warn while they are imported, which is not ours to mend.
@pytest.mark.filterwarnings("default")
def test_axolotl_knows_every_key_it_is_given() -> None:
    pytest.importorskip("axolotl", reason="needs the extra `train`")
    from axolotl.integrations.liger.args import LigerArgs
    from axolotl.utils.schemas.config import AxolotlInputConfig
    from axolotl.utils.schemas.datasets import SFTDataset, UserDefinedPrompterType

    keys = {key for hardware in Hardware for key in rendered(hardware)} | {RESUME}
    keys |= {key for _, changed in KEYS for key in changed} | {"test_datasets"}
    dataset = rendered()["datasets"][0]
    assert keys - _keys_of(AxolotlInputConfig) - _keys_of(LigerArgs) == set()
    assert dataset.keys() - _keys_of(SFTDataset) == set()
    assert dataset["type"].keys() - _keys_of(UserDefinedPrompterType) == set()


def _keys_of(model: type[BaseModel]) -> set[str]:
    fields = model.model_fields.items()
    return {str(field.validation_alias or name) for name, field in fields}
