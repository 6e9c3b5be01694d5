"""POST /runs and everything below /runs/{id}."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError

from api.looks import Looks
from finlora_core.db.session import Database, now
from finlora_core.runs import journal, lifecycle
from finlora_core.runs.lifecycle import Lease
from finlora_core.runs.outcome import AttemptEnd, End
from finlora_core.runs.status import Phase
from finlora_core.training.diagnose import FailureCode, failure
from finlora_core.training.hints import HINTS
from tests.support import BASE_MODEL, POLICY, ListQueue, write_dataset

CONFIG: dict[str, Any] = {"base_model": BASE_MODEL, "dataset_path": "train.jsonl"}


def post(client: TestClient, **keys: Any) -> dict[str, Any]:
    response = client.post("/runs", json={**CONFIG, **keys})
    assert response.status_code == 201, response.text
    run: dict[str, Any] = response.json()
    return run


def claim(database: Database) -> Lease:
    with database.transaction() as session:
        ttl = timedelta(minutes=2)
        lease = lifecycle.claim_next(session, worker="w", now=now(session), ttl=ttl)
        assert lease is not None
        return lease


def test_a_posted_run_is_stored_and_offered(client: TestClient, queue: ListQueue) -> None:
    response = client.post("/runs", json=CONFIG)
    run = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == f"/runs/{run['id']}"
    assert (run["status"], run["queue_position"], run["variant"]) == ("queued", 0, "fp16_r8")
    assert run["dataset"]["rows"] == 2
    assert queue.offered == [run["id"]]
    assert client.get(f"/runs/{run['id']}").json() == run


def test_a_dataset_that_has_changed_since_the_last_run_is_read_again(
    client: TestClient, dataset: Path
) -> None:
    before = post(client)
    write_dataset(dataset, rows=5)
    after = post(client)
    assert [run["dataset"]["rows"] for run in (before, after)] == [2, 5]
    dataset.unlink()
    assert client.post("/runs", json=CONFIG).json()["code"] == "dataset_not_found"


def test_while_enough_messages_wait_no_broker_is_asked(
    client: TestClient, queue: ListQueue
) -> None:
    queue.is_full = True
    assert post(client)["status"] == "queued"
    assert queue.offered == []


def test_a_run_is_shown_while_another_is_being_stored(
    client: TestClient, database: Database
) -> None:
    run = post(client)
    with database.transaction() as session:
        lifecycle.request_cancel(session, run["id"], now=now(session))
        assert client.get(f"/runs/{run['id']}").json() == run
    assert client.get(f"/runs/{run['id']}").json()["status"] == "cancelled"


def test_a_run_is_accepted_while_the_broker_is_down(
    client: TestClient, queue: ListQueue, database: Database
) -> None:
    queue.up = False
    run = post(client)
    with database.reading() as session:
        at = now(session)
        due = lifecycle.unoffered(session, now=at, before=at - timedelta(hours=1))
    assert due == [run["id"]]


def test_the_name_is_the_users_or_made_from_dataset_and_model(client: TestClient) -> None:
    assert post(client, name="mine")["name"] == "mine"
    assert post(client)["name"] == "train_tiny_llama"


def test_a_misspelt_key_gets_the_nearest_known_one(client: TestClient, queue: ListQueue) -> None:
    response = client.post("/runs", json={**CONFIG, "learning_rat": 1e-4})
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["errors"] == [
        {
            "key": "learning_rat",
            "code": "unknown_key",
            "message": "unknown key; did you mean 'learning_rate'?",
        }
    ]
    assert queue.offered == []
    assert client.get("/runs").json()["data"] == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("quant_bits", "5"),
        ("quant_bits", '"8"'),
        ("quant_bits", "true"),
        ("lora_r", "0"),
        ("lora_r", "true"),
        ("lora_r", "8.0"),
        ("lora_r", "100000000000000000000"),
        ("num_epochs", "0"),
        ("num_epochs", "1001"),
        ("batch_size", "-1"),
        ("gradient_accumulation_steps", "null"),
        ("learning_rate", "0"),
        ("learning_rate", "1"),
        ("learning_rate", "NaN"),
        ("learning_rate", "Infinity"),
        ("learning_rate", "1e999"),
        ("peft_use_dora", "1"),
        ("seed", "-1"),
        ("base_model", '"../../etc"'),
        ("base_model", '"https://example.org/model"'),
        ("base_model", '"a/b\\ud800"'),
        ("dataset_path", '"train.jsonl\\u0000"'),
        ("dataset_path", '""'),
        ("name", '"../escape"'),
        ("name", '".hidden"'),
        ("plugins", '["evil"]'),
        ("trust_remote_code", "true"),
    ],
)
def test_a_bad_value_is_refused_by_its_key(client: TestClient, key: str, value: str) -> None:
    keys = {k: f'"{v}"' for k, v in CONFIG.items()} | {key: value}
    body = "{" + ", ".join(f'"{k}": {v}' for k, v in keys.items()) + "}"
    response = client.post("/runs", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 422, response.text
    assert [error["key"] for error in response.json()["errors"]] == [key]
    assert client.get("/runs").json()["data"] == []


@pytest.mark.parametrize("body", ["", "{", "[1,", "nonsense", '{"a": }'])
def test_a_body_that_is_not_json_is_a_bad_request(client: TestClient, body: str) -> None:
    response = client.post("/runs", content=body, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)
    assert response.json()["code"] in ("invalid_json", "invalid_request")


@pytest.mark.parametrize(
    "written",
    [
        "missing.jsonl",
        "../../etc/passwd",
        "/etc/passwd",
        "https://example.org/x.jsonl",
        ".",
        "s3://b/x",
    ],
)
def test_a_dataset_outside_the_roots_is_named_as_written(client: TestClient, written: str) -> None:
    response = client.post("/runs", json={**CONFIG, "dataset_path": written})
    problem = response.json()
    assert (response.status_code, problem["code"]) == (422, "dataset_not_found")
    assert problem["errors"][0]["key"] == "dataset_path"
    assert repr(written) in problem["detail"]


@pytest.mark.parametrize("validation", [{}, {"validation_dataset_path": "train.jsonl"}])
def test_a_task_whose_answers_no_target_has_is_refused(
    client: TestClient, dataset: Path, validation: dict[str, str]
) -> None:
    refused = client.post("/runs", json={**CONFIG, **validation, "evaluation_task": "headline"})
    (problem,) = refused.json()["errors"]
    assert refused.status_code == 422
    assert (problem["key"], problem["code"]) == ("evaluation_task", "wrong_labels")
    assert "it has 'positive'" in problem["message"]
    assert (
        post(client, **validation, evaluation_task="tfns")["config"]["evaluation_task"] == "tfns"
    )


def test_a_target_that_nothing_can_be_compared_with_is_named_by_its_line(
    client: TestClient, dataset: Path
) -> None:
    with dataset.open("a") as file:
        file.write('{"context": "Profit?", "target": " "}\n')
    assert client.post("/runs", json=CONFIG).status_code == 201
    refused = client.post("/runs", json={**CONFIG, "evaluation_task": "accuracy"}).json()
    assert refused["errors"][0]["key"] == "dataset_path"
    assert "line 3: 'target' is blank" in refused["detail"]


def test_a_bad_row_is_named_by_its_line(client: TestClient, dataset: Path) -> None:
    with dataset.open("a") as file:
        file.write('{"context": "no target"}\n')
    response = client.post("/runs", json=CONFIG)
    assert response.status_code == 422
    assert response.json()["code"] == "invalid_dataset"
    assert "train.jsonl, line 3" in response.json()["detail"]


def test_a_secret_in_the_wrong_place_is_not_echoed(client: TestClient) -> None:
    secret = "hf_abcdefghijklmnopqrstuvwxyz"  # made up
    response = client.post("/runs", json={**CONFIG, "lora_r": secret})
    assert secret not in response.text


def test_runs_are_listed_page_by_page(client: TestClient) -> None:
    ids = [post(client)["id"] for _ in range(3)]
    first = client.get("/runs", params={"limit": 2}).json()
    rest = client.get("/runs", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [run["id"] for run in first["data"] + rest["data"]] == ids[::-1]
    assert rest["next_cursor"] is None


def test_a_made_up_cursor_is_refused(client: TestClient) -> None:
    response = client.get("/runs", params={"cursor": "nonsense"})
    assert (response.status_code, response.json()["code"]) == (422, "invalid_cursor")


@pytest.mark.parametrize("path", ["", "/config.yaml", "/logs", "/metrics"])
def test_an_unknown_run_is_not_found(client: TestClient, path: str) -> None:
    response = client.get(f"/runs/run_nope{path}")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert "run_nope" in response.json()["detail"]


def test_cancelling_a_queued_run_ends_it_and_again_is_the_same(client: TestClient) -> None:
    run = post(client)
    first = client.post(f"/runs/{run['id']}/cancel")
    second = client.post(f"/runs/{run['id']}/cancel")
    assert (first.status_code, first.json()["status"]) == (202, "cancelled")
    assert second.json() == first.json()


def test_cancelling_a_running_run_shows_the_wish(client: TestClient, database: Database) -> None:
    run = post(client)
    claim(database)
    seen = client.post(f"/runs/{run['id']}/cancel").json()
    assert (seen["status"], seen["phase"]) == ("running", "preparing")
    assert seen["cancel_requested"] is True


def test_an_ended_run_cannot_be_cancelled(client: TestClient, database: Database) -> None:
    run = post(client)
    lease = claim(database)
    boom = failure(FailureCode.CUDA_OUT_OF_MEMORY, "boom")
    with database.transaction() as session:
        end = AttemptEnd(end=End.FAILED, failure=boom)
        lifecycle.finish(session, lease, end, now=now(session), policy=POLICY)
    response = client.post(f"/runs/{run['id']}/cancel")
    assert (response.status_code, response.json()["code"]) == (409, "illegal_transition")
    assert "failed" in response.json()["detail"]
    assert client.get(f"/runs/{run['id']}").json()["error"] == {
        "code": "cuda_out_of_memory",
        "hint": HINTS[FailureCode.CUDA_OUT_OF_MEMORY],
        "log_tail": "boom",
    }


def test_progress_metrics_and_log_are_shown_while_a_run_trains(
    client: TestClient, database: Database
) -> None:
    run = post(client)
    lease = claim(database)
    progress = {"step": 2, "max_steps": 8, "percent": 25.0, "loss": 0.5, "eta_seconds": 12.0}
    with database.transaction() as session:
        lifecycle.enter_phase(session, lease, Phase.TRAINING, now=now(session))
        lifecycle.renew(
            session, lease, now=now(session), ttl=timedelta(minutes=2), progress=progress
        )
        journal.append_metrics(session, run["id"], 1, [{"step": 1, "loss": 0.9}])
        journal.append_log(session, run["id"], "one\ntwo\n")
    path = f"/runs/{run['id']}"
    seen = client.get(path).json()
    assert (seen["phase"], seen["progress"]) == (
        "training",
        {**progress, "epoch": None, "dropped_rows": 0},
    )
    points = client.get(f"{path}/metrics").json()
    assert points["data"] == [{"step": 1, "attempt": 1, "values": {"loss": 0.9}}]
    newer = client.get(f"{path}/metrics", params={"after": points["next_after"]}).json()
    assert newer["data"] == []
    log = client.get(f"{path}/logs", params={"offset": 4})
    assert (log.text, log.headers["next-offset"]) == ("two\n", "8")


def test_the_yaml_is_a_preview_until_a_worker_has_rendered_it(
    client: TestClient, database: Database
) -> None:
    run = post(client, quant_bits=4)
    preview = client.get(f"/runs/{run['id']}/config.yaml").text
    assert preview.startswith("# Preview")
    assert yaml.safe_load(preview)["adapter"] == "qlora"
    lease = claim(database)
    with database.transaction() as session:
        lifecycle.record_start(
            session, lease, yaml="seed: 1\n", resumed_from=None, now=now(session)
        )
    assert client.get(f"/runs/{run['id']}/config.yaml").text == "seed: 1\n"


@pytest.fixture
def away(client: TestClient) -> Iterator[None]:
    """The database refuses every connection."""
    url = make_url("postgresql://nobody@127.0.0.1:9/finlora")
    unreachable = Database.connect(url)
    state = client.app.state  # type: ignore[attr-defined]
    state.database, state.looks = unreachable, Looks(unreachable)
    yield
    unreachable.close()


@pytest.mark.usefixtures("away")
def test_without_its_database_the_api_says_so_and_stores_nothing(client: TestClient) -> None:
    response = client.post("/runs", json=CONFIG)
    assert (response.status_code, response.json()["code"]) == (503, "database_unavailable")
    assert response.headers["retry-after"]
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["database"]) == (503, "unreachable")


def test_a_run_that_is_stored_is_answered_201_whatever_fails_afterwards(
    client: TestClient, queue: ListQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise OperationalError("UPDATE", {}, Exception("away"))

    queue.up = False
    monkeypatch.setattr(lifecycle, "mark_unoffered", away)
    assert client.post("/runs", json=CONFIG).status_code == 201


@pytest.mark.parametrize(
    "path",
    ["/runs/%00", "/runs?name=%00", "/runs?cursor=MjAyNi0wMS0wMVQwMDowMDowMCswMDowMHwA",
     "/adapters/%00", "/adapters?run_id=%00"],
)  # fmt: skip
def test_a_nul_is_no_server_error(client: TestClient, path: str) -> None:
    assert client.get(path).status_code in (200, 404, 422)


def test_the_largest_offset_is_no_server_error(client: TestClient) -> None:
    run = post(client)
    response = client.get(f"/runs/{run['id']}/logs", params={"offset": 2**31 - 1})
    assert (response.status_code, response.text) == (200, "")
