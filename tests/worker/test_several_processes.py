"""One run shared by two real training processes: on the CPU, as they would be on two GPUs."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors.numpy import load_file

from finlora_core.datasets.check import check_dataset
from finlora_core.db.models import Run
from finlora_core.db.session import Database, now
from finlora_core.runs import journal, lifecycle, queries
from finlora_core.runs.lifecycle import Order
from finlora_core.runs.status import RunStatus
from finlora_core.settings import Settings
from finlora_core.training.files import AttemptFiles, RunFiles
from tests.conftest import TRAIN_ROWS
from tests.support import FORM, eventually, make_config, write_dataset
from tests.worker.conftest import BenchWith
from worker.attempt import work_until_idle
from worker.axolotl_plugin import unlike_asked
from worker.bench import Bench
from worker.trainer import axolotl_command

pytestmark = [pytest.mark.training, pytest.mark.timeout(600)]

PROCESSES = 2
BATCH = {"batch_size": 4, "gradient_accumulation_steps": 1, "num_epochs": 3}
STEPS = 3 * 5
"""One of the 40 rows validates; 39 are five steps of 2 processes with 4 rows each."""


@pytest.fixture
def bench(bench_with: BenchWith, settings: Settings, tiny_base: Path) -> Bench:
    """Sees two devices; accelerate must be told to take the CPU for several processes."""

    def command(files: AttemptFiles, processes: int) -> Sequence[str]:
        return ["env", "ACCELERATE_USE_CPU=true", *axolotl_command(files, processes)]

    settings.models[0].parent.mkdir(parents=True, exist_ok=True)
    settings.models[0].symlink_to(tiny_base)
    return replace(bench_with(""), gpus=["first", "second"], train_command=command)


@pytest.fixture
def run_id(settings: Settings, sqlite: Database) -> str:
    path = write_dataset(settings.datasets[0] / "train.jsonl", rows=TRAIN_ROWS)
    facts = check_dataset(path, FORM, shown_as=path.name)
    shared = {"gpus": PROCESSES, "parallelism": "ddp", "evaluation_task": "accuracy"}
    config = make_config(**shared, learning_rate=1e-3, **BATCH)
    with sqlite.transaction() as session:
        order = Order(name="shared")
        return lifecycle.create_run(session, config, order, dataset=facts, now=now(session)).id


def test_two_processes_train_one_adapter_pause_together_and_go_on_together(
    bench: Bench, run_id: str, sqlite: Database, settings: Settings
) -> None:
    def read() -> Run:
        with sqlite.reading() as session:
            return queries.get_any_run(session, run_id)

    working = threading.Thread(target=work_until_idle, args=[bench])
    working.start()
    assert eventually(lambda: (read().progress or {}).get("step", 0) >= 2, seconds=300), read()
    with sqlite.transaction() as session:
        lifecycle.request_pause(session, run_id, now=now(session))
    working.join()
    paused = read()
    assert paused.status is RunStatus.PAUSED, (paused.error_hint, paused.error_log)
    assert 2 <= (paused.checkpoint_step or 0) < STEPS
    states = RunFiles.of(settings.runs, run_id).checkpoints.rglob("rng_state_*.pth")
    assert {path.name for path in states} == {"rng_state_0.pth", "rng_state_1.pth"}

    with sqlite.transaction() as session:
        lifecycle.resume_run(session, run_id, now=now(session))
    work_until_idle(bench)
    ended = read()
    assert ended.status is RunStatus.SUCCEEDED, (ended.error_hint, ended.error_log)
    with sqlite.reading() as session:
        _, second = queries.list_attempts(session, run_id)
        points = journal.read_metrics(session, run_id, after=0, limit=1000)
    assert second.resumed_from == paused.checkpoint_step
    assert [point.step for point in points if "loss" in point.values] == [*range(1, STEPS + 1)]
    judged = [
        (point.step, point.values["eval_rows"]) for point in points if "eval_rows" in point.values
    ]
    assert judged == [(5, 1), (10, 1), (15, 1)]
    (weights,) = settings.adapters.glob("fp16_r8/shared/adapter_model.safetensors")
    assert all(value.any() for name, value in load_file(weights).items() if "lora_B" in name)


def accelerator(kind: str, processes: int = 1) -> Any:
    return SimpleNamespace(distributed_type=SimpleNamespace(name=kind), num_processes=processes)


@pytest.mark.parametrize(
    ("asked", "found", "processes", "is_as_asked"),
    [
        ({}, "NO", 1, True),
        ({}, "MULTI_GPU", 2, True),
        ({}, "NO", 2, False),
        ({"deepspeed": "zero1.json"}, "DEEPSPEED", 2, True),
        ({"deepspeed": "zero1.json"}, "MULTI_GPU", 2, False),
        ({"fsdp_config": {"a": 1}}, "FSDP", 2, True),
        ({"fsdp_config": {"a": 1}}, "MULTI_GPU", 2, False),
    ],
)
def test_a_training_that_is_not_shared_as_asked_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    asked: dict[str, Any],
    found: str,
    processes: int,
    is_as_asked: bool,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    cfg = SimpleNamespace(**{"deepspeed": None, "fsdp_config": None, **asked})
    together = 1 if found == "NO" else processes
    assert (unlike_asked(cfg, accelerator(found, together)) is None) is is_as_asked
