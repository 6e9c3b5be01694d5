"""Every key that Axolotl knows is a user's, the server's or forbidden, by decision.

Axolotl's YAML can load code, read and write files and reach the network. A release that
brings a new key fails here until somebody has said in axolotl_keys.yaml which it is.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import AliasChoices, BaseModel, ValidationError

from finlora_core.runs.config import Parallelism, Profile, PromptFormat, RunConfig, RunRequest
from finlora_core.training.axolotl import Hardware, TrainingInput, render, to_yaml
from finlora_core.training.base_model import BaseModelFacts
from finlora_core.training.files import AttemptFiles

KEYS = yaml.safe_load(Path(__file__).with_name("axolotl_keys.yaml").read_text())
USER: Mapping[str, list[str]] = KEYS["user"]
SERVER: list[str] = KEYS["server"]
FORBIDDEN = [pattern for patterns in KEYS["forbidden"].values() for pattern in patterns]

# Axolotl's packages warn while they are imported, which is not ours to mend
pytestmark = pytest.mark.filterwarnings("default")


def is_forbidden(key: str, pattern: str) -> bool:
    """By itself, or with the section it lies in."""
    return fnmatchcase(key, pattern) or fnmatchcase(key, f"{pattern}.*")


def classes_of(key: str) -> list[str]:
    return [row for row in (*USER, *SERVER) if row == key] + [
        pattern for pattern in FORBIDDEN if is_forbidden(key, pattern)
    ]


# --- what Axolotl knows


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All keys of a schema, those of its sections behind a dot."""
    for name, field in model.model_fields.items():
        alias = field.validation_alias
        spellings = alias.choices if isinstance(alias, AliasChoices) else [alias or name]
        for spelling in spellings:
            yield f"{prefix}{spelling}"
            for section in sections_of(field.annotation):
                yield from keys_of(section, f"{prefix}{spelling}.")


def sections_of(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from sections_of(inner)


def keys_of_plugins(folder: Path) -> Iterator[str]:
    """Those that Axolotl's own plugins add to the schema; read, not imported: they need torch."""
    source = "\n".join(file.read_text() for file in sorted(folder.rglob("*.py")))
    named = set(re.findall(r'return "axolotl\.integrations\.\S*\.(\w+)"', source))
    for file in sorted(folder.rglob("args.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name in named:
                named.remove(node.name)
                yield from (
                    ast.unparse(field.target)
                    for field in node.body
                    if isinstance(field, ast.AnnAssign)
                )
    assert not named, f"plugin schemas that were not found: {named}"


@pytest.fixture(scope="module")
def known() -> list[str]:
    axolotl = pytest.importorskip("axolotl", reason="needs the extra `train`")
    from axolotl.utils.schemas.config import AxolotlConfigWCapabilities

    plugins = keys_of_plugins(Path(axolotl.__file__).parent / "integrations")
    return sorted({*keys_of(AxolotlConfigWCapabilities), *plugins})


def test_every_key_that_axolotl_knows_is_classified_once(known: list[str]) -> None:
    undecided = {key: rows for key in known if len(rows := classes_of(key)) != 1}
    assert undecided == {}, "decide in axolotl_keys.yaml: a user's, the server's or forbidden?"


def test_no_row_is_about_a_key_that_axolotl_no_longer_has(known: list[str]) -> None:
    gone = [row for row in (*USER, *SERVER) if row not in known]
    gone += [row for row in FORBIDDEN if not any(is_forbidden(key, row) for key in known)]
    assert gone == []


# --- what is rendered

LEAST: dict[str, Any] = {"base_model": "org/model", "dataset_path": "x.jsonl"}
GIVEN = TrainingInput(
    "/models/org/model", BaseModelFacts(is_llama_3=True, pad_token="<|end_of_text|>"),
    "/data/x.jsonl", dataset_rows=1000, resume_from="/runs/checkpoint-7",
)  # fmt: skip

# of each key of the run config values that show all that it can set
VALUES: Mapping[str, list[Any]] = {
    "base_model": ["a/b"],
    "dataset_path": ["y.jsonl"],
    "lora_r": [16],
    "lora_alpha": [32],
    "quant_bits": [4, 8],
    "learning_rate": [1e-3],
    "num_epochs": [1],
    "batch_size": [4],
    "gradient_accumulation_steps": [2],
    "peft_use_dora": [True],
    "peft_use_rslora": [True],
    "seed": [7],
    "prompt_format": list(PromptFormat),
    "lora_dropout": [0.0],
    "lora_target_modules": [["o_proj"], "all-linear"],
    "sequence_len": [512],
    "validation_dataset_path": ["v.jsonl"],
    "val_set_size": [0.1, 0.0],
    "max_steps": [7],
    "early_stopping_patience": [3],
    "evaluation_task": ["tfns"],
    "lr_scheduler": ["constant"],
    "warmup_steps": [3],
    "warmup_ratio": [0.1],
    "weight_decay": [0.1],
    "optimizer": ["adafactor"],
    "profile": list(Profile),
    "gpus": [2],
    "parallelism": list(Parallelism),
}
NEEDS: Mapping[str, dict[str, Any]] = {"parallelism": {"gpus": 2}}
"""Keys that are refused without another."""


def test_every_key_of_the_run_config_is_tried_here() -> None:
    assert VALUES.keys() == RunConfig.model_fields.keys()


def rendered(config: RunConfig, hardware: Hardware, llama_3: bool = True) -> dict[str, Any]:
    """As the worker does it: `given` holds what the config's names were resolved to."""
    validation = "/data/v.jsonl" if config.validation_dataset_path else None
    model = GIVEN.model if llama_3 else BaseModelFacts(is_llama_3=False)
    resolved = replace(GIVEN, validation_dataset=validation, model=model)
    return render(config, resolved, AttemptFiles(Path("/runs/attempt-1")), hardware)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Every key at every depth, in the spelling of axolotl_keys.yaml."""
    if isinstance(value, dict):
        found: dict[str, Any] = {}
        for key, inner in value.items():
            found |= {f"{prefix}{key}": inner, **flat(inner, f"{prefix}{key}.")}
        return found
    if isinstance(value, list):
        return {key: inner for item in value for key, inner in flat(item, prefix).items()}
    return {}


def config(**keys: Any) -> RunConfig:
    return RunConfig.model_validate({**LEAST, **keys})


def every_rendering() -> Iterator[dict[str, Any]]:
    """Every key by itself, with each profile and form, on each hardware and kind of model."""
    changes = [
        {**NEEDS.get(key, {}), key: value} for key, values in VALUES.items() for value in values
    ]
    forms = product(Profile, PromptFormat, (None, "v.jsonl"))
    for (profile, form, validation), change in product(forms, changes):
        chosen = {"profile": profile, "prompt_format": form, "validation_dataset_path": validation}
        try:
            run = config(**{**chosen, **change})
        except ValidationError:
            continue  # a share to validate on beside a dataset to validate on
        for hardware, llama_3 in product(Hardware, (True, False)):
            yield rendered(run, hardware, llama_3)


def test_the_renderer_writes_what_is_a_users_or_the_servers_and_nothing_else() -> None:
    written = {key for rendering in every_rendering() for key in flat(rendering)}
    assert written == {*USER, *SERVER}


def test_a_users_keys_are_set_by_the_keys_that_the_list_names() -> None:
    sets: dict[str, list[str]] = {key: [] for key in USER}
    for key, values in VALUES.items():
        for changed in changed_by(key, values) & sets.keys():
            sets[changed].append(key)
    assert sets == {key: sorted(by, key=list(VALUES).index) for key, by in USER.items()}


def changed_by(key: str, values: list[Any]) -> set[str]:
    """What of the rendering on a GPU one key of the run config changes by itself."""
    changed: set[str] = set()
    for value, llama_3 in product(values, (True, False)):
        needed = NEEDS.get(key, {})
        before, after = (
            flat(rendered(config(**keys), Hardware.CUDA, llama_3))
            for keys in (needed, {**needed, key: value})
        )
        changed |= {one for one in before | after if before.get(one) != after.get(one)}
    return changed


# --- what a user may try


def test_axolotls_own_keys_are_refused_as_unknown(known: list[str]) -> None:
    foreign = [key for key in known if "." not in key and key not in RunRequest.model_fields]
    with pytest.raises(ValidationError) as refused:
        RunRequest.model_validate({**LEAST, **dict.fromkeys(foreign, "x")})
    assert {(error["loc"], error["type"]) for error in refused.value.errors()} == {
        ((key,), "extra_forbidden") for key in foreign
    }


BELONGS_ELSEWHERE = [
    "x.jsonl\nplugins: [os.system]",
    "x\u2028trust_remote_code: true",
    "{plugins: [a.b]}",
    "!!python/object/apply:os.system [id]",
    "&a [*a]",
    "<<: {trainer_cls: a.b}",
    "x: y",
    "org/kernel",
]
TEXT_KEYS = [key for key, values in VALUES.items() if isinstance(values[0], str | list)]


@given(st.sampled_from(TEXT_KEYS), st.text(max_size=60) | st.sampled_from(BELONGS_ELSEWHERE))
@settings(max_examples=500, deadline=None)
def test_no_text_of_a_user_becomes_a_key(key: str, text: str) -> None:
    try:
        run = config(**{key: text})
    except ValidationError:
        return  # which is the other right answer
    as_written = TrainingInput.as_written(run, rows=10)
    written = to_yaml(render(run, as_written, AttemptFiles(Path("/runs/a")), Hardware.CPU))
    assert flat(yaml.safe_load(written)).keys() <= {*USER, *SERVER}
