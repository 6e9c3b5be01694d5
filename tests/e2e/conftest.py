"""One embedded stack for the whole folder: real Redis, API, Celery worker and Axolotl."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finlora_core.client import Client
from finlora_core.settings import Settings, load_settings
from finlora_core.stack import Stack, free_port, running_stack
from tests.support import BASE_MODEL, CANARY, eventually

Train = Callable[..., dict[str, Any]]


def stack_settings(home: Path, data: Path, models: Path, **settings: Any) -> Settings:
    return load_settings(
        home=home,
        port=free_port(),
        dataset_roots=str(data),
        models_dirs=str(models),
        device="cpu",
        heartbeat_seconds=0.2,
        reconcile_seconds=0.5,
        min_free_disk_mib=0,
        rate_limit="off",
        **settings,
    )


@pytest.fixture(scope="session")
def stack(
    tmp_path_factory: pytest.TempPathFactory, data: Path, tiny_base: Path
) -> Iterator[Stack]:
    """Secrets are in its settings and its environment; no training may leave one behind."""
    home = tmp_path_factory.mktemp("home")
    settings = stack_settings(home, data, tiny_base, hf_token=f"hf_{CANARY}")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_SECRET_ACCESS_KEY", CANARY)
        with running_stack(settings) as stack:
            yield stack


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with Client(stack.url, stack.key) as client:
        yield client


@pytest.fixture
def train(client: Client) -> Train:
    """Posts a short run with the given keys and returns it when it has ended."""

    def run_to_its_end(**keys: Any) -> dict[str, Any]:
        short = {"num_epochs": 1, "batch_size": 4, "gradient_accumulation_steps": 2}
        config = {"base_model": BASE_MODEL, "dataset_path": "train.jsonl", **short, **keys}
        run = client.create_run({"learning_rate": 1e-3, **config})
        return client.wait(run["id"], lambda seen: None)

    return run_to_its_end


def is_training(client: Client, run_id: str) -> bool:
    progress = client.get_run(run_id)["progress"]
    return bool(progress and progress["step"] >= 1)


def wait_until_training(client: Client, run_id: str) -> None:
    assert eventually(lambda: is_training(client, run_id), seconds=120), json.dumps(
        client.get_run(run_id), indent=1
    )
