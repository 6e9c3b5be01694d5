"""Quotas over HTTP, on both databases."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from api.main import create_app
from finlora_core.access.owners import DEFAULT_OWNER
from finlora_core.adapters.store import AdapterStore
from finlora_core.db.models import Adapter
from finlora_core.db.session import Database
from finlora_core.settings import Settings
from tests.merges import end_merge
from tests.support import BASE_MODEL, ListQueue, bearer, make_key

RUN = {"base_model": BASE_MODEL, "dataset_path": "train.jsonl"}
ROW = b'{"context": "Profit rose.", "target": "positive"}\n'


def key_with(client: TestClient, **quota: Any) -> dict[str, str]:
    made = client.post("/keys", json={"name": "ci", "owner": "ann", **quota})
    assert made.status_code == 201, made.text
    return bearer(made.json()["key"])


def upload(client: TestClient, headers: dict[str, str], rows: int) -> httpx.Response:
    return client.post("/datasets", files={"file": ("x.jsonl", ROW * rows)}, headers=headers)


def files_in(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file()]


def test_past_its_queued_runs_a_key_gets_429_and_nothing_is_made(
    client: TestClient, queue: ListQueue
) -> None:
    ann = key_with(client, max_queued_runs=1)
    again = {**ann, "Idempotency-Key": "a"}
    first = client.post("/runs", json=RUN, headers=again)
    refused = client.post("/runs", json=RUN, headers=ann)
    assert (first.status_code, refused.status_code) == (201, 429)
    assert refused.json()["code"] == "quota_exceeded"
    assert int(refused.headers["Retry-After"]) > 0
    assert len(queue.offered) == 1
    replayed = client.post("/runs", json=RUN, headers=again)
    assert (replayed.status_code, replayed.json()["id"]) == (201, first.json()["id"])
    run_id = first.json()["id"]
    client.post(f"/runs/{run_id}/cancel", headers=ann)
    assert client.post(f"/runs/{run_id}/retry", headers=ann).status_code == 201
    assert client.post(f"/runs/{run_id}/retry", headers=ann).status_code == 429


def test_below_v1_a_quota_is_openais_rate_limit_error_not_to_be_sent_again(
    client: TestClient,
) -> None:
    ann = key_with(client, max_queued_runs=0)
    sent = {"file": ("x.jsonl", ROW * 2)}
    file = client.post("/v1/files", files=sent, data={"purpose": "fine-tune"}, headers=ann)
    job = {"model": BASE_MODEL, "training_file": file.json()["id"]}
    refused = client.post("/v1/fine_tuning/jobs", json=job, headers=ann)
    assert refused.status_code == 429
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "quota_exceeded")
    assert refused.headers["x-should-retry"] == "false"


def test_past_its_stored_bytes_an_upload_is_refused_before_it_is_read(
    client: TestClient, settings: Settings
) -> None:
    ann = key_with(client, max_stored_bytes=10 * len(ROW))
    assert upload(client, ann, 6).status_code == 201
    before = files_in(settings.uploads)

    def body() -> Iterator[bytes]:
        raise AssertionError("it was read")
        yield b""

    declared = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": "2000000"}
    refused = client.post("/datasets", content=body(), headers={**ann, **declared})
    assert (refused.status_code, refused.json()["code"]) == (413, "storage_quota_exceeded")
    assert files_in(settings.uploads) == before


def test_or_while_it_is_read_and_nothing_of_it_is_kept(
    client: TestClient, settings: Settings
) -> None:
    ann = key_with(client, max_stored_bytes=10 * len(ROW))
    assert upload(client, ann, 6).status_code == 201
    before = files_in(settings.uploads)
    refused = upload(client, ann, 5)
    assert (refused.status_code, refused.json()["code"]) == (413, "storage_quota_exceeded")
    assert files_in(settings.uploads) == before
    announced = {
        "bytes": 5 * len(ROW),
        "filename": "x",
        "mime_type": "text/jsonl",
        "purpose": "fine-tune",
    }
    assert client.post("/v1/uploads", json=announced, headers=ann).status_code == 413
    announced["bytes"] = 4 * len(ROW)
    assert client.post("/v1/uploads", json=announced, headers=ann).status_code == 200
    assert upload(client, ann, 1).status_code == 413


def test_merged_models_count_until_they_are_deleted(
    client: TestClient, adapter: Adapter, database: Database, settings: Settings
) -> None:
    def merge() -> httpx.Response:
        return client.post(f"/adapters/{adapter.id}/merge", json={}, headers=full)

    made = client.post(f"/adapters/{adapter.id}/merge", json={}).json()["id"]
    end_merge(database, settings, made)
    size = client.get(f"/merges/{made}").json()["merged"]["size"]
    owner = {"owner": DEFAULT_OWNER, "max_stored_bytes": size}
    full = bearer(client.post("/keys", json={"name": "full", **owner}).json()["key"])
    for refused in (merge(), upload(client, full, 2)):
        assert (refused.status_code, refused.json()["code"]) == (413, "storage_quota_exceeded")
    another = key_with(client, max_stored_bytes=2 * len(ROW))
    assert upload(client, another, 2).status_code == 201
    keys = client.get("/keys").json()["data"]
    assert {key["use"]["stored_bytes"] for key in keys if key["owner"] == DEFAULT_OWNER} == {size}
    assert client.delete(f"/merges/{made}/files", headers=full).status_code == 204
    assert upload(client, full, 2).status_code == 201
    assert merge().status_code == 201


def test_the_list_of_keys_shows_quota_and_use(client: TestClient) -> None:
    ann = key_with(client, max_queued_runs=5, max_stored_bytes=1000, gpu_hours_per_day=1.5)
    client.post("/runs", json=RUN, headers=ann)
    upload(client, ann, 2)
    (read,) = [key for key in client.get("/keys").json()["data"] if key["owner"] == "ann"]
    assert read["quota"] == {
        "max_queued_runs": 5,
        "max_stored_bytes": 1000,
        "gpu_hours_per_day": 1.5,
    }
    assert read["use"] == {"queued_runs": 1, "stored_bytes": 2 * len(ROW), "gpu_hours": 0}


@pytest.mark.parametrize(
    "quota",
    [
        {"max_queued_runs": -1},
        {"max_queued_runs": True},
        {"gpu_hours_per_day": False},
        {"max_stored_bytes": 1.5},
        {"gpu_hours_per_day": -0.1},
    ],
)
def test_what_is_no_quota_is_refused(client: TestClient, quota: dict[str, Any]) -> None:
    refused = client.post("/keys", json={"name": "ci", **quota})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["key"] == next(iter(quota))


def test_a_key_without_quotas_has_the_servers(
    settings: Settings, database: Database, dataset: Path, queue: ListQueue
) -> None:
    few = settings.model_copy(update={"max_queued_runs": 1})
    store = AdapterStore(few.adapters)
    app = create_app(settings=few, database=database, queue=queue, store=store)
    with TestClient(app, headers=bearer(make_key(database, few))) as client:
        more = key_with(client, max_queued_runs=2)
        for owner, statuses in (({}, [201, 429]), (more, [201, 201, 429])):
            answers = [client.post("/runs", json=RUN, headers=owner) for _ in statuses]
            assert [answer.status_code for answer in answers] == statuses
