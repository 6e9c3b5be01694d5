"""Merges as the API sees them; tests/worker/test_merge.py merges real models."""

import io
import json
import tarfile
from typing import Any

import pytest
from fastapi.testclient import TestClient

from finlora_core.adapters.store import MergedStore
from finlora_core.db.models import Adapter
from finlora_core.db.session import Database
from finlora_core.merging.config import MAX_KL, MIN_TOP1_AGREEMENT
from finlora_core.settings import Settings
from tests.merges import FIGURES, end_merge
from tests.support import BASE_MODEL, ListQueue


def post(client: TestClient, adapter: Adapter, **keys: Any) -> Any:
    return client.post(f"/adapters/{adapter.id}/merge", json=keys)


def test_a_merge_waits_in_line_like_a_run(
    client: TestClient, adapter: Adapter, queue: ListQueue
) -> None:
    made = post(client, adapter)
    assert made.status_code == 201, made.text
    read = made.json()
    assert made.headers["Location"] == f"/merges/{read['id']}"
    assert read["id"].startswith("merge_")
    assert (read["status"], read["queue_position"]) == ("queued", 0)
    assert (read["name"], read["base_model"]) == (adapter.name, BASE_MODEL)
    assert (read["adapter_id"], read["merged"]) == (adapter.id, None)
    assert (read["config"]["max_kl"], read["config"]["min_top1_agreement"]) == (
        MAX_KL,
        MIN_TOP1_AGREEMENT,
    )
    assert queue.offered == [read["id"]]
    assert client.get(f"/merges/{read['id']}").json() == read
    assert client.get("/merges").json()["data"] == [read]
    events = client.get(f"/merges/{read['id']}/events").json()["data"]
    assert [event["type"] for event in events] == ["created"]
    assert client.get(f"/merges/{read['id']}/logs").text == ""


def test_merges_are_taken_for_nothing_else(client: TestClient, adapter: Adapter) -> None:
    merge = post(client, adapter).json()["id"]
    for path in (f"/runs/{merge}", f"/evaluations/{merge}", f"/merges/{adapter.run_id}"):
        assert client.get(path).status_code == 404, path
    assert merge not in client.get("/runs").text
    assert merge not in client.get("/evaluations").text


def test_a_merged_model_is_shown_and_downloaded(
    client: TestClient, adapter: Adapter, database: Database, settings: Settings
) -> None:
    id = post(client, adapter).json()["id"]
    assert client.get(f"/merges/{id}/download").status_code == 404
    end_merge(database, settings, id)
    read = client.get(f"/merges/{id}").json()
    assert read["status"] == "succeeded"
    assert read["merged"]["fidelity"] == FIGURES
    assert read["merged"]["overridden"] is None
    assert client.get(f"/adapters/{adapter.id}").json()["merges"] == [id]
    for file in read["merged"]["files"]:
        got = client.get(f"/merges/{id}/files/{file['path']}")
        assert (len(got.content), got.headers["ETag"]) == (file["size"], f'"{file["sha256"]}"')
    part = client.get(f"/merges/{id}/files/config.json", headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, b"mod")
    whole = client.get(f"/merges/{id}/download")
    with tarfile.open(fileobj=io.BytesIO(whole.content)) as archive:
        assert len(archive.getnames()) == len(read["merged"]["files"])
    head = client.head(f"/merges/{id}/download")
    assert head.headers["Content-Length"] == str(len(whole.content))
    assert client.get(f"/merges/{id}/files/nothing.json").status_code == 404


def test_files_that_are_gone_are_said_to_be(
    client: TestClient, adapter: Adapter, database: Database, settings: Settings
) -> None:
    id = post(client, adapter).json()["id"]
    end_merge(database, settings, id)
    MergedStore(settings.adapters).discard(f"{id}_1")
    got = client.get(f"/merges/{id}/download")
    assert (got.status_code, got.json()["code"]) == (410, "merged_files_missing")


def test_a_merged_model_is_deleted_and_the_adapter_merged_again(
    client: TestClient, adapter: Adapter, database: Database, settings: Settings
) -> None:
    id = post(client, adapter).json()["id"]
    assert client.delete(f"/merges/{id}/files").status_code == 404
    end_merge(database, settings, id)
    folder = MergedStore(settings.adapters).folder(f"{id}_1")
    assert folder.is_dir()
    assert client.delete(f"/merges/{id}/files").status_code == 204
    assert not folder.exists()
    read = client.get(f"/merges/{id}").json()
    assert (read["status"], read["merged"]) == ("succeeded", None)
    assert client.get(f"/adapters/{adapter.id}").json()["merges"] == []
    for gone in (client.delete(f"/merges/{id}/files"), client.get(f"/merges/{id}/download")):
        assert gone.status_code == 404
    told = client.get("/audit?action=merge.model_deleted").json()["data"]
    assert [entry["object_id"] for entry in told] == [id]
    again = post(client, adapter).json()["id"]
    end_merge(database, settings, again)
    assert client.get(f"/adapters/{adapter.id}").json()["merges"] == [again]


def test_what_an_override_was_for_is_shown(
    client: TestClient, adapter: Adapter, database: Database, settings: Settings
) -> None:
    id = post(client, adapter, override="for the demo").json()["id"]
    end_merge(database, settings, id, kl=MAX_KL * 2, top1_agreement=MIN_TOP1_AGREEMENT / 2)
    read = client.get(f"/merges/{id}").json()
    assert read["config"]["override"] == "for the demo"
    assert "nats a token" in read["merged"]["overridden"]
    assert "likeliest" in read["merged"]["overridden"]


def test_a_queued_merge_is_cancelled_at_once(client: TestClient, adapter: Adapter) -> None:
    id = post(client, adapter).json()["id"]
    for _ in range(2):
        got = client.post(f"/merges/{id}/cancel")
        assert (got.status_code, got.json()["status"]) == (202, "cancelled")


def test_an_idempotency_key_makes_one_merge(client: TestClient, adapter: Adapter) -> None:
    path, key = f"/adapters/{adapter.id}/merge", {"Idempotency-Key": "once"}
    ids = {client.post(path, json={}, headers=key).json()["id"] for _ in range(3)}
    assert len(ids) == 1


def test_an_uploaded_dataset_stays_while_a_merge_needs_it(
    client: TestClient, adapter: Adapter
) -> None:
    row = json.dumps({"context": "Up.", "target": "positive"}).encode() + b"\n"
    uploaded = client.post("/datasets", files={"file": ("x.jsonl", row * 3)}).json()["id"]
    id = post(client, adapter, dataset_path=uploaded).json()["id"]
    refused = client.delete(f"/datasets/{uploaded}")
    assert (refused.status_code, refused.json()["code"]) == (409, "dataset_in_use")
    client.post(f"/merges/{id}/cancel")
    assert client.delete(f"/datasets/{uploaded}").status_code == 204


@pytest.mark.parametrize(
    ("keys", "key"),
    [
        ({"max_kl": -1}, "max_kl"),
        ({"min_top1_agreement": 1.5}, "min_top1_agreement"),
        ({"override": ""}, "override"),
        ({"override": True}, "override"),
        ({"dataset_path": "none.jsonl"}, "dataset_path"),
        ({"dataset_path": "../etc/passwd"}, "dataset_path"),
        ({"max_kll": 1}, "max_kll"),
        ({"adapter_id": "adp_x_1"}, "adapter_id"),
    ],
)
def test_what_is_wrong_is_named_and_nothing_is_stored(
    client: TestClient, adapter: Adapter, keys: dict[str, Any], key: str
) -> None:
    got = post(client, adapter, **keys)
    assert got.status_code == 422, got.text
    assert key in {one["key"] for one in got.json()["errors"]}
    assert client.get("/merges").json()["data"] == []
