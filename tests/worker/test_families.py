"""Real Axolotl on every family of base models that FinLoRA tunes, and on every form of rows.

Each training also takes another set of the run config's keys along, so that all of them have
been through Axolotl's own validation and training.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from finlora_core.adapters.store import AdapterStore
from finlora_core.datasets.check import check_dataset
from finlora_core.db.models import Run
from finlora_core.db.session import Database, now
from finlora_core.runs import lifecycle, queries
from finlora_core.runs.lifecycle import Order
from finlora_core.runs.status import RunStatus
from finlora_core.settings import Settings
from finlora_core.training.axolotl import Hardware
from finlora_core.training.files import RunFiles
from tests.support import make_config
from tests.tiny_models import FAMILIES
from worker.attempt import work_until_idle
from worker.bench import Bench
from worker.tail import read_json

pytestmark = [pytest.mark.training, pytest.mark.timeout(600)]

IN_EVERY_RUN = "qwen"
"""The one that differs most from the Llama of all other tests; `make long` trains the others."""

ROWS = 24
FEW = {"max_steps": 3, "batch_size": 2, "gradient_accumulation_steps": 1, "sequence_len": 128}

Row = Callable[[int], dict[str, Any]]


def finlora_row(n: int) -> dict[str, Any]:
    return {"context": f"Profit rose to {n} million. Sentiment?", "target": "positive"}


def alpaca_row(n: int) -> dict[str, Any]:
    return {"instruction": "Sentiment?", "input": f"Profit fell by {n} %.", "output": "negative"}


def chat_row(n: int) -> dict[str, Any]:
    asked = {"role": "user", "content": f"Profit rose to {n} million. Sentiment?"}
    return {"messages": [asked, {"role": "assistant", "content": "positive"}]}


TRAININGS: Mapping[str, tuple[Row, dict[str, Any]]] = {
    "llama_3": (finlora_row, {"quant_bits": 8, "lora_dropout": 0.0, "warmup_ratio": 0.1}),
    "llama_2": (
        alpaca_row,
        {"prompt_format": "alpaca", "lr_scheduler": "constant", "weight_decay": 0.01},
    ),
    "mistral": (
        finlora_row,
        {"quant_bits": 4, "profile": "fast", "validation_dataset_path": "validation.jsonl"},
    ),
    "qwen": (
        chat_row,
        {"prompt_format": "chat", "lora_target_modules": "all-linear", "val_set_size": 0},
    ),
    "gemma": (
        chat_row,
        {"prompt_format": "chat", "optimizer": "adafactor", "early_stopping_patience": 1},
    ),
}


@pytest.fixture
def bench(settings: Settings, sqlite: Database) -> Bench:
    return Bench(
        settings=settings,
        database=sqlite,
        store=AdapterStore(settings.adapters),
        hardware=Hardware.CPU,
        owner="test",
    )


def write_rows(path: Path, row: Row, *, long: int = 0) -> Path:
    """`long` of them are longer than any sequence_len here."""
    rows = [row(n) for n in range(ROWS)]
    for each in rows[:long]:
        key = next(key for key in ("context", "input", "messages") if key in each)
        text = "Revenue grew again. " * 200
        each[key] = (
            text if key != "messages" else [{**each[key][0], "content": text}, each[key][1]]
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


def train(bench: Bench, family: str, *, long: int) -> Run:
    """The run after a real training of a model of that family."""
    row, keys = TRAININGS[family]
    FAMILIES[family](bench.settings.models[0] / "tiny" / family)
    root = bench.settings.datasets[0]
    config = make_config(**{"base_model": f"tiny/{family}", **FEW, **keys})
    files = [write_rows(root / "train.jsonl", row, long=long)]
    files += [write_rows(root / "validation.jsonl", row)] if config.validation_dataset_path else []
    checked = [check_dataset(file, config.prompt_format, shown_as=file.name) for file in files]
    with bench.database.transaction() as session:
        run = lifecycle.create_run(
            session,
            config,
            Order(name=family),
            dataset=checked[0],
            validation=checked[1] if len(checked) > 1 else None,
            now=now(session),
        )
    work_until_idle(bench)
    with bench.database.reading() as session:
        return queries.get_any_run(session, run.id)


@pytest.mark.parametrize(
    "family",
    [
        family if family == IN_EVERY_RUN else pytest.param(family, marks=pytest.mark.long)
        for family in FAMILIES
    ],
)
def test_each_family_of_base_models_trains(bench: Bench, family: str) -> None:
    run = train(bench, family, long=2)
    assert run.status is RunStatus.SUCCEEDED, (run.error_code, run.error_hint, run.error_log)
    facts = read_json(RunFiles.of(bench.settings.runs, run.id).attempt(1).completed)
    assert facts is not None
    assert facts["dropped_rows"] == 2 == (run.progress or {})["dropped_rows"]
    assert facts["training_rows"] == ROWS - 2 - (
        0 if run.config["validation_dataset_path"] else facts["validation_rows"]
    )
