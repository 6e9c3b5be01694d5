"""The closed schema of a run config: defaults, what is refused, and in which words."""

import hashlib
import json
import re
from typing import Any

import pytest
from pydantic import ValidationError

from finlora_core.errors import KeyProblem
from finlora_core.runs.config import Parallelism, RunConfig, RunRequest, explain

LEAST: dict[str, Any] = {
    "base_model": "meta-llama/Llama-3.1-8B-Instruct",
    "dataset_path": "../data/train/finlora_sentiment_train.jsonl",
}


def config(**keys: Any) -> RunConfig:
    return RunConfig.model_validate({**LEAST, **keys})


def request(**keys: Any) -> RunRequest:
    return RunRequest.model_validate({**LEAST, **keys})


def problems(**keys: Any) -> tuple[KeyProblem, ...]:
    with pytest.raises(ValidationError) as caught:
        request(**keys)
    return explain(caught.value.errors(), RunRequest.model_fields)


def test_what_is_left_out_takes_finloras_value() -> None:
    assert config().model_dump() == {
        **LEAST,
        "lora_r": 8,
        "lora_alpha": 16,
        "quant_bits": None,
        "learning_rate": 2e-4,
        "num_epochs": 4,
        "batch_size": 2,
        "gradient_accumulation_steps": 4,
        "peft_use_dora": False,
        "peft_use_rslora": False,
        "seed": 42,
        "prompt_format": "instruction",
        "lora_dropout": 0.05,
        "lora_target_modules": ["q_proj", "v_proj", "k_proj"],
        "sequence_len": 4096,
        "validation_dataset_path": None,
        "val_set_size": None,
        "max_steps": None,
        "early_stopping_patience": None,
        "evaluation_task": None,
        "lr_scheduler": "cosine",
        "warmup_steps": None,
        "warmup_ratio": None,
        "weight_decay": 0.0,
        "optimizer": None,
        "profile": "faithful",
        "gpus": 1,
        "parallelism": None,
    }


@pytest.mark.parametrize("key", LEAST)
def test_a_missing_key_is_named(key: str) -> None:
    keys = {name: value for name, value in LEAST.items() if name != key}
    with pytest.raises(ValidationError) as caught:
        RunRequest.model_validate(keys)
    (problem,) = explain(caught.value.errors(), RunRequest.model_fields)
    assert (problem.key, problem.code) == (key, "missing_key")


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("lora_rank", "lora_r"),
        ("quantbits", "quant_bits"),
        ("LORA_R", "lora_r"),
        ("epochs", "num_epochs"),
        ("use_dora", "peft_use_dora"),
        ("nam", "name"),
    ],
)
def test_a_misspelt_key_gets_the_nearest_known_one(misspelt: str, meant: str) -> None:
    (problem,) = problems(**{misspelt: 4})
    assert problem == KeyProblem(misspelt, "unknown_key", f"unknown key; did you mean {meant!r}?")


def test_a_key_like_no_other_gets_the_list_of_keys() -> None:
    (problem,) = problems(plugins=["os.system"])
    assert problem.code == "unknown_key"
    assert all(key in problem.message for key in RunRequest.model_fields)


INTEGERS = (
    "lora_r", "lora_alpha", "num_epochs", "batch_size", "gradient_accumulation_steps", "seed",
)  # fmt: skip


@pytest.mark.parametrize("key", INTEGERS)
@pytest.mark.parametrize("value", [True, 8.0, 8.5, "8", None, [8], float("nan"), -1, 2**63])
def test_a_whole_number_is_that_and_nothing_like_it(key: str, value: object) -> None:
    (problem,) = problems(**{key: value})
    assert (problem.key, problem.code) == (key, "invalid_value")


@pytest.mark.parametrize("key", ["peft_use_dora", "peft_use_rslora"])
@pytest.mark.parametrize("value", [0, 1, "true", None])
def test_a_switch_is_true_or_false_and_nothing_like_it(key: str, value: object) -> None:
    (problem,) = problems(**{key: value})
    assert (problem.key, problem.code) == (key, "invalid_value")


@pytest.mark.parametrize(
    ("key", "smallest", "largest"),
    [
        ("lora_r", 1, 1024),
        ("lora_alpha", 1, 8192),
        ("num_epochs", 1, 1000),
        ("batch_size", 1, 4096),
        ("gradient_accumulation_steps", 1, 4096),
        ("seed", 0, 2**32 - 1),
    ],
)
def test_a_number_ends_where_its_range_ends(key: str, smallest: int, largest: int) -> None:
    assert getattr(config(**{key: smallest}), key) == smallest
    assert getattr(config(**{key: largest}), key) == largest
    assert [p.key for p in problems(**{key: smallest - 1})] == [key]
    assert [p.key for p in problems(**{key: largest + 1})] == [key]


@pytest.mark.parametrize(
    "value",
    [0, 0.0, 1, 1.0, -1e-4, float("nan"), float("inf"), True, "1e-4", None, 10**400],
)
def test_a_learning_rate_lies_between_0_and_1(value: object) -> None:
    (problem,) = problems(learning_rate=value)
    assert (problem.key, problem.code) == ("learning_rate", "invalid_value")


@pytest.mark.parametrize("value", [1e-12, 0.5, 0.999])
def test_any_learning_rate_in_between_is_taken(value: float) -> None:
    assert config(learning_rate=value).learning_rate == value


@pytest.mark.parametrize("value", [0, 1, 2, 16, "4", "8bit", True, False, [8]])
def test_a_base_has_4_bits_or_8_or_is_not_quantised(value: object) -> None:
    (problem,) = problems(quant_bits=value)
    assert problem == KeyProblem("quant_bits", "invalid_value", "should be 4 or 8")


@pytest.mark.parametrize(
    "value",
    ["", "a\0b", "a\nb", "a\x1b[31mb", "a\x7fb", "a\x9bb", "a\u202eb", "a\ud800b", "a" * 1025, 5],
)
def test_a_dataset_path_is_printable_text(value: object) -> None:
    (problem,) = problems(dataset_path=value)
    assert (problem.key, problem.code) == ("dataset_path", "invalid_value")


@pytest.mark.parametrize("value", ["a" * 1024, "Umsätze 2024.jsonl", "財務.jsonl"])
def test_a_dataset_path_may_have_any_letters(value: str) -> None:
    assert config(dataset_path=value).dataset_path == value


BAD_MODELS = [
    "", ".", "..", "../x", "x/..", "x/../y", "/abs", "/abs/model", "a/b/c", "a//b", "a/", "/",
    "https://huggingface.co/a/b", "file:///etc", "~/model", "a\\b", ".hidden", "a/.hidden",
    "-rf", "a/-rf", "a b", "a/b\n", "a\n/b", "\na/b", "a/b\0", "a/b\ud800", "modèle", "a@main",
    "a" * 257, 5, None,
]  # fmt: skip


@pytest.mark.parametrize("value", BAD_MODELS)
def test_a_base_model_is_a_name_and_never_a_path_or_url(value: object) -> None:
    (problem,) = problems(base_model=value)
    assert (problem.key, problem.code) == ("base_model", "invalid_value")


@pytest.mark.parametrize("value", ["gpt2", "a/b", "Qwen/Qwen2.5-0.5B", "_a/__b-c.d", "a" * 256])
def test_a_base_model_may_have_an_organisation(value: str) -> None:
    assert config(base_model=value).base_model == value


@pytest.mark.parametrize(
    ("quant_bits", "method", "variant"),
    [
        (4, {}, "4bits_r4"),
        (4, {"peft_use_dora": True}, "4bits_r4_dora"),
        (4, {"peft_use_rslora": True}, "4bits_r4_rslora"),
        (8, {}, "8bits_r4"),
        (8, {"peft_use_dora": True}, "8bits_r4_dora"),
        (8, {"peft_use_rslora": True}, "8bits_r4_rslora"),
        (None, {}, "fp16_r4"),
        (None, {"peft_use_dora": True}, "fp16_r4_dora"),
        (None, {"peft_use_rslora": True}, "fp16_r4_rslora"),
        (8, {"peft_use_dora": True, "peft_use_rslora": True}, "8bits_r4_dora_rslora"),
    ],
)
def test_a_variant_is_named_as_finlora_names_its_folder(
    quant_bits: int | None, method: dict[str, bool], variant: str
) -> None:
    assert config(lora_r=4, quant_bits=quant_bits, **method).variant == variant


@pytest.mark.parametrize(
    ("dataset_path", "base_model", "name"),
    [
        (
            "../data/train/finlora_sentiment_train.jsonl",
            "meta-llama/Llama-3.1-8B-Instruct",
            "finlora_sentiment_train_llama_3_1_8b_instruct",
        ),
        ("x.jsonl", "gpt2", "x_gpt2"),
        ("My Data--v2.jsonl", "org/__m__", "my_data_v2_m"),
        ("財務.jsonl", "gpt2", "gpt2"),
        ("_.jsonl", "_", "run"),
        ("d" * 200 + ".jsonl", "gpt2", "d" * 128),
    ],
)
def test_a_run_without_a_name_is_named_after_its_dataset_and_base_model(
    dataset_path: str, base_model: str, name: str
) -> None:
    unnamed = request(dataset_path=dataset_path, base_model=base_model)
    assert unnamed.run_name == name
    assert request(name=name).run_name == name  # it also keeps the rules for a name


@pytest.mark.parametrize("name", ["sentiment", "a.b-c_D9", "_x", "9", "n" * 128])
def test_a_run_keeps_the_name_it_is_given(name: str) -> None:
    assert request(name=name).run_name == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".store", "-x", "a/b", "../x", "a b", "ä", "a\n", "a\0", "\ud800", "n" * 129],
)
def test_a_name_that_could_leave_its_folder_is_refused(name: str) -> None:
    (problem,) = problems(name=name)
    assert (problem.key, problem.code) == ("name", "invalid_value")


def test_the_name_is_no_part_of_the_config() -> None:
    named = request(name="sentiment", lora_r=4)
    assert named.config == config(lora_r=4)
    assert type(named.config) is RunConfig


def test_equal_configs_have_equal_hashes() -> None:
    spelt_out = config().model_dump()
    backwards = RunConfig.model_validate(dict(reversed(spelt_out.items())))
    assert config().sha256 == backwards.sha256 == request(name="x").config.sha256


def test_the_hash_is_that_of_what_differs_from_the_defaults() -> None:
    """So that it stays the same when a later version knows more keys."""
    text = json.dumps({**LEAST, "lora_r": 4}, sort_keys=True)
    assert config(lora_r=4, num_epochs=4).sha256 == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("modules", ["all-linear", ["o_proj"], ["down_proj", "q_proj"]])
def test_an_adapter_may_be_on_any_linear_layers(modules: object) -> None:
    assert config(lora_target_modules=modules).lora_target_modules == modules


@pytest.mark.parametrize("modules", ["q_proj", [], ["lm_head"], ["q_proj", "q_proj"], [1], None])
def test_layers_are_named_from_a_list_or_refused_with_it(modules: object) -> None:
    (problem,) = problems(lora_target_modules=modules)
    assert (problem.key, problem.code) == ("lora_target_modules", "invalid_value")
    assert "'all-linear', or a list of some of q_proj, k_proj" in problem.message


@pytest.mark.parametrize(
    ("keys", "named", "said"),
    [
        ({"warmup_steps": 5, "warmup_ratio": 0.1}, "warmup_ratio", "not both"),
        (
            {"validation_dataset_path": "v.jsonl", "val_set_size": 0.1},
            "val_set_size",
            "give validation_dataset_path or val_set_size, not both",
        ),
        (
            {"early_stopping_patience": 2, "val_set_size": 0},
            "early_stopping_patience",
            "needs something to validate on",
        ),
        (
            {"evaluation_task": "tfns", "val_set_size": 0},
            "evaluation_task",
            "kept out of training",
        ),
        (
            {"evaluation_task": "tfns", "gpus": 2, "parallelism": "zero3"},
            "evaluation_task",
            "use ddp, zero1 or zero2",
        ),
        ({"parallelism": "ddp"}, "parallelism", "more than one GPU"),
        ({"gpus": 2, "parallelism": "zero3", "quant_bits": 8}, "parallelism", "quant_bits 4"),
        ({"gpus": 2, "parallelism": "fsdp", "quant_bits": 8}, "parallelism", "zero2"),
        (
            {"gpus": 2, "parallelism": "fsdp", "optimizer": "paged_adamw_8bit"},
            "optimizer",
            "does not spread",
        ),
    ],
)
def test_keys_that_contradict_each_other_are_refused(
    keys: dict[str, object], named: str, said: str
) -> None:
    (problem,) = problems(**keys)
    assert (problem.key, problem.code) == (named, "invalid_value")
    assert said in problem.message


@pytest.mark.parametrize(
    ("name", "meant"), [("tfnss", "tfns"), ("acuracy", "accuracy"), ("ROUGE", "rouge_l")]
)
def test_an_evaluation_task_that_there_is_not_is_answered_with_the_nearest(
    name: str, meant: str
) -> None:
    (problem,) = problems(evaluation_task=name)
    assert (problem.key, problem.code) == ("evaluation_task", "invalid_value")
    assert meant in problem.message
    assert name not in problem.message


def test_several_gpus_share_a_training_as_finloras_script_has_it_unless_told_otherwise() -> None:
    assert config().spread is None
    assert config(gpus=4).spread is Parallelism.ZERO1
    assert config(gpus=4, parallelism="ddp").spread is Parallelism.DDP


def test_a_run_validates_on_finloras_share_unless_it_has_a_dataset_for_that() -> None:
    assert config().validation_share == 0.02
    assert config(val_set_size=0.1).validation_share == 0.1
    assert config(validation_dataset_path="v.jsonl").validation_share == 0
    assert config(validation_dataset_path="v.jsonl", early_stopping_patience=1).validates
    assert not config(val_set_size=0).validates


@pytest.mark.parametrize(
    "changed",
    [
        {"base_model": "gpt2"}, {"dataset_path": "x.jsonl"}, {"lora_r": 9}, {"lora_alpha": 17},
        {"quant_bits": 8}, {"learning_rate": 1e-4}, {"num_epochs": 5}, {"batch_size": 3},
        {"gradient_accumulation_steps": 5}, {"peft_use_dora": True}, {"peft_use_rslora": True},
        {"seed": 43},
    ],
)  # fmt: skip
def test_every_key_counts_in_the_hash(changed: dict[str, object]) -> None:
    assert config(**changed).sha256 != config().sha256


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        config().lora_r = 9


SECRET = "hf_SecretInTheWrongPlace"


# metadata may hold any text
@pytest.mark.parametrize("key", [*sorted(RunRequest.model_fields.keys() - {"metadata"}), "token"])
@pytest.mark.parametrize("value", [SECRET + "\n", [SECRET], {SECRET: SECRET}])
def test_a_refusal_never_repeats_the_value(key: str, value: object) -> None:
    found = problems(**{key: value})
    assert {problem.key for problem in found} == {key}
    assert SECRET not in repr(found)


def test_every_wrong_key_is_named_at_once() -> None:
    found = problems(lora_r=0, seed=-1, quantbits=8)
    assert {(p.key, p.code) for p in found} == {
        ("lora_r", "invalid_value"),
        ("seed", "invalid_value"),
        ("quantbits", "unknown_key"),
    }


def test_a_problem_reads_as_a_sentence_without_pydantics_words() -> None:
    found = problems(lora_r=0, base_model="../x", dataset_path="a\0")
    assert not any(re.match("Input|Value error", p.message) for p in found)
