"""Real Axolotl, interrupted: the adapter is the one that an undisturbed training gives."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finlora_core.client import Client
from finlora_core.stack import Stack, running_stack
from finlora_core.training.files import RunFiles
from tests.conftest import DEMO_DATA
from tests.e2e.conftest import stack_settings
from tests.support import BASE_MODEL, eventually
from worker import survivors

pytestmark = [pytest.mark.training, pytest.mark.long, pytest.mark.timeout(900)]

CONFIG = {
    "base_model": BASE_MODEL,
    "dataset_path": "sentiment_train.jsonl",
    "num_epochs": 1,
    "batch_size": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-3,
}
ROWS = 640
"""80 steps, less the rows to validate on."""
CHECKPOINT_SECONDS = 1.0
LOOK = 10.0
"""Seconds from the step at which a checkpoint is due until the supervisor has it: the step
itself, a validation, the saving, and its next look. A second on a machine that is not busy."""

SLOW = 240
"""Seconds that a busy machine may take for a few steps."""

SEED = 20
Kill = Callable[[Stack, str], None]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[Stack]:
    home, data = tmp_path_factory.mktemp("resume"), tmp_path_factory.mktemp("some_data")
    rows = (DEMO_DATA / "sentiment_train.jsonl").read_text().splitlines(keepends=True)
    (data / "sentiment_train.jsonl").write_text("".join(rows[:ROWS]))
    settings = stack_settings(
        home,
        data,
        tiny_base,
        checkpoint_seconds=CHECKPOINT_SECONDS,
        retry_backoff_seconds=0.1,
    )
    with running_stack(settings) as stack:
        yield stack


@pytest.fixture(scope="module")
def undisturbed(stack: Stack) -> str:
    """The SHA-256 of the adapter that nobody interrupted."""
    with Client(stack.url, stack.key) as client:
        return adapter_of(client, client.create_run(CONFIG)["id"])


def adapter_of(client: Client, run_id: str) -> str:
    ended = client.wait(run_id, lambda seen: None)
    assert ended["status"] == "succeeded", ended["error"]
    sha256: str = client.get_adapter(ended["adapter_id"])["sha256"]
    return sha256


def wait_for_step(client: Client, run_id: str, step: int) -> dict[str, Any]:
    assert eventually(lambda: step_of(client, run_id) >= step, seconds=SLOW)
    return client.get_run(run_id)


def wait_for_attempt(client: Client, run_id: str, number: int) -> None:
    assert eventually(lambda: client.get_run(run_id)["attempt"] == number, seconds=SLOW)


def step_of(client: Client, run_id: str) -> int:
    return int((client.get_run(run_id)["progress"] or {}).get("step", 0))


def kill_worker(stack: Stack, run_id: str) -> None:
    os.kill(stack.pid("worker"), signal.SIGKILL)
    stack.start_process("worker")


def kill_trainer(stack: Stack, run_id: str) -> None:
    _, trainer, *_ = survivors.find(RunFiles.of(stack.settings.runs, run_id).root)
    os.kill(trainer, signal.SIGKILL)


def kill_guard(stack: Stack, run_id: str) -> None:
    guard, *_ = survivors.find(RunFiles.of(stack.settings.runs, run_id).root)
    os.kill(guard, signal.SIGKILL)


def has_checkpoint(stack: Stack, run_id: str) -> bool:
    return any(RunFiles.of(stack.settings.runs, run_id).checkpoints.glob("*/*/checkpoint.json"))


def newest_checkpoint(stack: Stack, run_id: str) -> tuple[int, float]:
    """Its step, and when the trainer saved it."""
    kept = RunFiles.of(stack.settings.runs, run_id).checkpoints.glob("*/*/trainer_state.json")
    newest = max(kept, key=lambda path: int(path.parent.name.rpartition("-")[2]))
    return int(newest.parent.name.rpartition("-")[2]), newest.stat().st_mtime


def test_killed_at_three_random_steps_the_adapter_is_the_same_bit_for_bit(
    stack: Stack, undisturbed: str
) -> None:
    """And each kill costs at most one checkpoint interval."""
    kills: list[Kill] = [kill_worker, kill_trainer, kill_guard]
    chance = random.Random(SEED)  # noqa: S311  # which steps, not a secret
    with Client(stack.url, stack.key) as client:
        run_id = client.create_run(CONFIG)["id"]
        resumed_from = []
        for turn, kill in enumerate(kills):
            low = 20 * (turn + 1)
            wait_for_step(client, run_id, chance.randrange(low, low + 10))
            assert eventually(lambda: has_checkpoint(stack, run_id), seconds=SLOW)
            killed_at = time.time()
            step, saved_at = newest_checkpoint(stack, run_id)
            kill(stack, run_id)
            lost = killed_at - saved_at
            assert lost <= CHECKPOINT_SECONDS + LOOK
            print(f"{kill.__name__} near step {step}: {lost:.2f} s of training lost")
            resumed_from.append(step)
            wait_for_attempt(client, run_id, turn + 2)
            wait_for_step(client, run_id, step + 1)
        assert adapter_of(client, run_id) == undisturbed
        attempts = client.list_attempts(run_id)
    assert [attempt["resumed_from"] for attempt in attempts] == [None, *resumed_from]
    assert [attempt["error_code"] for attempt in attempts] == [
        "worker_lost",
        "trainer_killed",
        "trainer_killed",
        None,
    ]


def test_paused_and_resumed_twice_the_adapter_is_the_same_bit_for_bit(
    stack: Stack, undisturbed: str
) -> None:
    with Client(stack.url, stack.key) as client:
        run_id = client.create_run(CONFIG)["id"]
        paused_at: list[int] = []
        for step in (20, 50):
            wait_for_step(client, run_id, step)
            client.pause_run(run_id)
            assert eventually(lambda: client.get_run(run_id)["status"] == "paused", seconds=SLOW)
            assert survivors.find(stack.settings.runs) == []
            paused_at.append(client.get_run(run_id)["checkpoint_step"])
            client.resume_run(run_id)
        assert adapter_of(client, run_id) == undisturbed
        attempts = client.list_attempts(run_id)
    assert [attempt["resumed_from"] for attempt in attempts] == [None, *paused_at]
    assert paused_at[0] >= 20
