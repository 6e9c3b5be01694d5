"""Evaluations as the API sees them; tests/worker/test_evaluate.py lets real models answer."""

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from finlora_core.db.models import Adapter
from finlora_core.db.session import Database
from finlora_core.settings import Settings
from tests.answers import answer
from tests.support import BASE_MODEL, ListQueue

TARGETS = ("positive", "negative", "positive", "neutral")


@pytest.fixture
def held_out(settings: Settings) -> Path:
    path = settings.datasets[0] / "tfns_test.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = ({"context": f"Row {n}.", "target": target} for n, target in enumerate(TARGETS))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def post(client: TestClient, **keys: Any) -> Any:
    return client.post("/evaluations", json={"tasks": [{"task": "tfns"}], **keys})


def test_an_evaluation_waits_in_line_like_a_run(
    client: TestClient, held_out: Path, queue: ListQueue
) -> None:
    made = post(client, base_model=BASE_MODEL)
    assert made.status_code == 201, made.text
    read = made.json()
    assert made.headers["Location"] == f"/evaluations/{read['id']}"
    assert read["id"].startswith("eval_")
    assert (read["status"], read["queue_position"], read["name"]) == ("queued", 0, "tfns")
    assert read["results"] == []
    assert queue.offered == [read["id"]]
    assert client.get(f"/evaluations/{read['id']}").json() == read
    assert client.get("/evaluations").json()["data"] == [read]


def test_trainings_and_evaluations_take_turns_in_one_line(
    client: TestClient, held_out: Path
) -> None:
    config = {"base_model": BASE_MODEL, "dataset_path": "train.jsonl"}
    client.post("/runs", json=config)
    first = post(client, base_model=BASE_MODEL).json()
    hurried = post(client, base_model=BASE_MODEL, priority=5).json()
    run = client.post("/runs", json=config).json()
    places = [
        client.get(path).json()["queue_position"]
        for path in (
            f"/evaluations/{hurried['id']}",
            f"/evaluations/{first['id']}",
            f"/runs/{run['id']}",
        )
    ]
    assert places == [0, 2, 3]


def test_runs_and_evaluations_are_not_taken_for_each_other(
    client: TestClient, held_out: Path
) -> None:
    evaluation = post(client, base_model=BASE_MODEL).json()["id"]
    config = {"base_model": BASE_MODEL, "dataset_path": "train.jsonl"}
    run = client.post("/runs", json=config).json()["id"]
    assert [one["id"] for one in client.get("/runs").json()["data"]] == [run]
    assert [one["id"] for one in client.get("/evaluations").json()["data"]] == [evaluation]
    for path in (f"/runs/{evaluation}", f"/runs/{evaluation}/events", f"/evaluations/{run}"):
        assert client.get(path).status_code == 404, path
    for path in (f"/runs/{evaluation}/cancel", f"/evaluations/{run}/cancel"):
        assert client.post(path).status_code == 404, path
    jobs = client.get("/v1/fine_tuning/jobs").json()["data"]
    assert [one["id"] for one in jobs] == [run.replace("run_", "ftjob-")]


def test_results_are_shown_with_the_evaluation_and_with_the_adapter(
    client: TestClient, held_out: Path, adapter: Adapter, database: Database, settings: Settings
) -> None:
    id = post(client, adapters=[adapter.id]).json()["id"]
    answer(database, settings, id, ["Positive.", "positive", "positive!", ""])
    read = client.get(f"/evaluations/{id}").json()
    assert read["status"] == "succeeded"
    (result,) = read["results"]
    assert (result["adapter_id"], result["task"], result["rows"]) == (adapter.id, "tfns", 4)
    assert (result["metric"], result["value"]) == ("accuracy", 0.5)
    assert 0 <= result["low"] < 0.5 < result["high"] <= 1
    assert result["summary"]["empty_outputs"] == 1
    shown = client.get(f"/adapters/{adapter.id}").json()["evaluations"]
    assert shown == [result]
    lines = client.get(f"/evaluations/{id}/outputs/{result['id']}")
    assert lines.headers["content-type"] == "application/jsonl"
    rows = [json.loads(line) for line in lines.text.splitlines()]
    assert [(row["line"], row["target"], row["prediction"], row["score"]) for row in rows] == [
        (1, "positive", "positive", 1.0),
        (2, "negative", "positive", 0.0),
        (3, "positive", "positive", 1.0),
        (4, "neutral", None, 0.0),
    ]


def test_an_adapter_shows_the_newest_result_of_each_set(
    client: TestClient, held_out: Path, adapter: Adapter, database: Database, settings: Settings
) -> None:
    for answers in (["positive"] * 4, ["negative"] * 4):
        id = post(client, adapters=[adapter.id]).json()["id"]
        answer(database, settings, id, answers)
    (shown,) = client.get(f"/adapters/{adapter.id}").json()["evaluations"]
    assert (shown["evaluation_id"], shown["value"]) == (id, 0.25)


def test_events_and_log_are_read_as_a_runs(client: TestClient, held_out: Path) -> None:
    id = post(client, base_model=BASE_MODEL).json()["id"]
    events = client.get(f"/evaluations/{id}/events").json()["data"]
    assert [event["type"] for event in events] == ["created"]
    log = client.get(f"/evaluations/{id}/logs")
    assert (log.status_code, log.text) == (200, "")


def test_a_queued_evaluation_is_cancelled_at_once(client: TestClient, held_out: Path) -> None:
    id = post(client, base_model=BASE_MODEL).json()["id"]
    for _ in range(2):
        got = client.post(f"/evaluations/{id}/cancel")
        assert (got.status_code, got.json()["status"]) == (202, "cancelled")


def test_an_idempotency_key_makes_one_evaluation(client: TestClient, held_out: Path) -> None:
    body = {"tasks": [{"task": "tfns"}], "base_model": BASE_MODEL}
    key = {"Idempotency-Key": "once"}
    ids = {client.post("/evaluations", json=body, headers=key).json()["id"] for _ in range(3)}
    assert len(ids) == 1


def test_an_uploaded_dataset_stays_while_an_evaluation_needs_it(client: TestClient) -> None:
    row = json.dumps({"context": "Up.", "target": "positive"}).encode() + b"\n"
    uploaded = client.post("/datasets", files={"file": ("x.jsonl", row * 3)}).json()["id"]
    own = [{"dataset_path": uploaded, "metric": "accuracy"}]
    id = post(client, base_model=BASE_MODEL, tasks=own).json()["id"]
    refused = client.delete(f"/datasets/{uploaded}")
    assert (refused.status_code, refused.json()["code"]) == (409, "dataset_in_use")
    assert id in refused.json()["detail"]
    client.post(f"/evaluations/{id}/cancel")
    assert client.delete(f"/datasets/{uploaded}").status_code == 204


OWN = {"dataset_path": "tfns_test.jsonl", "metric": "accuracy"}

BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"base_model": None}, "adapters", "give adapters, or a base_model"),
    ({"adapters": ["adp_none_1"]}, "adapters.0", "there is no adapter"),
    ({"adapters": ["run_x"]}, "adapters.0", "match"),
    ({"tasks": []}, "tasks", "at least 1 item"),
    ({"tasks": [{"task": "tnfs"}]}, "tasks.0.task", "tfns"),
    ({"tasks": [{"dataset_path": "tfns_test.jsonl"}]}, "metric", "both dataset_path and metric"),
    ({"tasks": [{"metric": "accuracy"}]}, "dataset_path", "both dataset_path and metric"),
    ({"tasks": [{"task": "tfns", "metric": "tags"}]}, "metric", "its own metric"),
    ({"tasks": [{**OWN, "metric": "bleu"}]}, "tasks.0.metric", "accuracy"),
    ({"tasks": [OWN | {"labels": ["a", "A"]}]}, "tasks.0.labels", "more than case"),
    ({"tasks": [OWN | {"labels": ["up", "down"]}]}, "tasks.0.labels", "no target"),
    ({"tasks": [OWN | {"dataset_path": "none.jsonl"}]}, "tasks.0.dataset_path", "none.jsonl"),
    ({"tasks": [{"task": "tfns"}, {"task": "fpb"}]}, "tasks.1.dataset_path", "fpb_test.jsonl"),
    ({"tasks": [OWN | {"tolerance": 0.5}]}, "tasks.0.tolerance", "no tolerance"),
    ({"tasks": [OWN | {"dataset_path": "../etc/passwd"}]}, "tasks.0.dataset_path", "not a file"),
    ({"limit": 0}, "limit", "greater than or equal to 1"),
    ({"limit": True}, "limit", "integer"),
    ({"batch_size": 100_000}, "batch_size", "less than or equal to"),
    ({"quant_bits": 3}, "quant_bits", "4"),
    ({"base_modell": "x/y"}, "base_modell", "base_model"),
]


@pytest.mark.parametrize(("keys", "key", "words"), BAD, ids=[f"{n}" for n in range(len(BAD))])
def test_what_is_wrong_is_named_and_nothing_is_stored(
    client: TestClient, held_out: Path, keys: dict[str, Any], key: str, words: str
) -> None:
    asked = {"base_model": BASE_MODEL, "tasks": [{"task": "tfns"}], **keys}
    got = client.post("/evaluations", json={k: v for k, v in asked.items() if v is not None})
    assert got.status_code == 422, got.text
    problem = got.json()
    said = {one["key"]: one["message"] for one in problem["errors"]}
    assert key in said, problem
    assert words in said[key] or words in problem["detail"], problem
    assert client.get("/evaluations").json()["data"] == []


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"context": "x"}, "line 2: 'target'"),
        ({"context": "x", "target": ""}, "line 2: 'target' is blank"),
    ],
)
def test_a_row_without_a_target_is_named_by_its_line(
    client: TestClient, held_out: Path, row: dict[str, str], words: str
) -> None:
    lines = held_out.read_text().splitlines()
    held_out.write_text("\n".join([lines[0], json.dumps(row), *lines[2:]]) + "\n")
    got = post(client, base_model=BASE_MODEL)
    assert (got.status_code, got.json()["code"]) == (422, "invalid_dataset")
    assert words in got.json()["detail"]


def test_adapters_of_different_bases_are_not_judged_together(
    client: TestClient, held_out: Path, adapter: Adapter
) -> None:
    got = post(client, adapters=[adapter.id], base_model="another/model")
    assert got.status_code == 422
    assert got.json()["errors"][0]["key"] == "adapters.0"
    assert adapter.base_model in got.json()["detail"]
