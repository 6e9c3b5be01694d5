"""GET /tasks: what can be evaluated, and whether its rows are at hand."""

from typing import Any

from fastapi.testclient import TestClient

from finlora_core.evaluation.tasks import load_tasks
from finlora_core.settings import Settings
from tests.support import write_dataset


def tasks_of(client: TestClient) -> dict[str, dict[str, Any]]:
    return {task["name"]: task for task in client.get("/tasks").json()["data"]}


def test_every_task_says_how_it_is_judged_and_what_finlora_has_published(
    client: TestClient,
) -> None:
    tasks = tasks_of(client)
    assert tasks.keys() == load_tasks().keys()
    tfns = tasks["tfns"]
    assert (tfns["metric"], tfns["max_new_tokens"]) == ("accuracy", 10)
    assert tfns["labels"] == ["negative", "neutral", "positive"]
    base = {"base_model": "meta-llama/Llama-3.1-8B-Instruct", "variant": None}
    assert {**base, "metric": "accuracy", "value": 0.6997} in tfns["published"]


def test_a_test_set_is_found_where_a_finlora_checkout_has_it(
    client: TestClient, settings: Settings
) -> None:
    root = settings.datasets[0]
    (root / "lora").mkdir()
    write_dataset(root / "data" / "test" / "finer_test_batched.jsonl")
    write_dataset(root / "tfns_test.jsonl")
    tasks = tasks_of(client)
    assert tasks["finer"]["dataset_path"] == "../data/test/finer_test_batched.jsonl"
    assert tasks["tfns"]["dataset_path"] == "tfns_test.jsonl"
    assert tasks["fpb"]["dataset_path"] is None
    assert tasks["fpb"]["looked_for"] == ["../data/test/fpb_test.jsonl", "fpb_test.jsonl"]
    made = client.post(
        "/evaluations", json={"base_model": "org/model", "tasks": [{"task": "fpb"}]}
    )
    assert made.json()["code"] == "dataset_not_found"
    for path in tasks["fpb"]["looked_for"]:
        assert path in made.json()["detail"]
