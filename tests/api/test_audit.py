"""What requests leave in the audit log, on both databases."""

from typing import Any

from fastapi.testclient import TestClient

from finlora_core.access.pepper import load_pepper
from finlora_core.audit import chain
from finlora_core.audit.chain import Sealer
from finlora_core.audit.kept import kept_file
from finlora_core.db.session import Database, now
from finlora_core.settings import Settings
from tests.support import BASE_MODEL, bearer

RUN = {"base_model": BASE_MODEL, "dataset_path": "train.jsonl"}
ROWS = b'{"context": "Profit rose.", "target": "positive"}\n' * 2


def entries(client: TestClient, **filters: Any) -> list[dict[str, Any]]:
    answer = client.get("/audit", params=filters)
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


def test_everything_that_is_done_is_told_with_who_did_it(client: TestClient) -> None:
    made = client.post("/keys", json={"name": "ci", "owner": "ann"}).json()
    ann = {**bearer(made["key"]), "X-Request-ID": "ticket-7"}
    run = client.post("/runs", json=RUN, headers=ann).json()["id"]
    for verb in ("pause", "resume", "cancel"):
        client.post(f"/runs/{run}/{verb}", headers=ann)
    retried = client.post(f"/runs/{run}/retry", headers=ann).json()["id"]
    files = {"file": ("x.jsonl", ROWS)}
    dataset = client.post("/datasets", files=files, headers=ann).json()["id"]
    client.delete(f"/datasets/{dataset}", headers=ann)
    hook = client.post("/webhooks", json={"url": "https://example.com/"}, headers=ann).json()["id"]
    client.delete(f"/webhooks/{hook}", headers=ann)
    client.delete(f"/keys/{made['id']}")
    told = entries(client, owner="ann")
    assert [(each["action"], each["object_id"]) for each in reversed(told)] == [
        ("run.created", run),
        ("run.paused", run),
        ("run.resumed", run),
        ("run.cancelled", run),
        ("run.retried", retried),
        ("dataset.created", dataset),
        ("dataset.deleted", dataset),
        ("webhook.created", hook),
        ("webhook.deleted", hook),
    ]
    assert {(each["key_id"], each["request_id"]) for each in told} == {(made["id"], "ticket-7")}
    keys = entries(client, object_id=made["id"])
    assert [each["action"] for each in keys] == ["key.revoked", "key.created"]
    assert keys[1]["details"]["for"] == "ann"
    assert made["key"] not in client.get("/audit").text


def test_below_v1_it_is_told_by_the_same_names(client: TestClient) -> None:
    sent = {"file": ("x.jsonl", ROWS)}
    file = client.post("/v1/files", files=sent, data={"purpose": "fine-tune"}).json()["id"]
    job = client.post(
        "/v1/fine_tuning/jobs", json={"model": BASE_MODEL, "training_file": file}
    ).json()["id"]
    for verb in ("pause", "resume", "cancel"):
        client.post(f"/v1/fine_tuning/jobs/{job}/{verb}")
    client.delete(f"/v1/files/{file}")
    wanted = {"bytes": len(ROWS), "filename": "x", "mime_type": "text/jsonl"}
    upload = client.post("/v1/uploads", json={**wanted, "purpose": "fine-tune"}).json()["id"]
    part = client.post(f"/v1/uploads/{upload}/parts", files={"data": ROWS}).json()["id"]
    client.post(f"/v1/uploads/{upload}/complete", json={"part_ids": [part]})
    other = client.post("/v1/uploads", json={**wanted, "purpose": "fine-tune"}).json()["id"]
    client.post(f"/v1/uploads/{other}/cancel")
    assert [each["action"] for each in reversed(entries(client))] == [
        "dataset.created",
        "run.created",
        "run.paused",
        "run.resumed",
        "run.cancelled",
        "dataset.deleted",
        "upload.created",
        "dataset.created",
        "upload.created",
        "upload.cancelled",
    ]


def test_what_was_refused_or_repeated_is_not_told(client: TestClient) -> None:
    once = {"Idempotency-Key": "a"}
    for _ in range(2):
        assert client.post("/runs", json=RUN, headers=once).status_code == 201
    client.post("/runs", json={**RUN, "lora_r": 0})
    client.post("/runs/run_none/cancel")
    client.delete("/datasets/dataset_none")
    assert [each["action"] for each in entries(client)] == ["run.created"]


def test_the_list_comes_in_pages_and_knows_only_what_can_be_asked(client: TestClient) -> None:
    for _ in range(3):
        client.post("/runs", json=RUN)
    first = client.get("/audit", params={"limit": 2}).json()
    rest = client.get("/audit", params={"limit": 2, "before": first["next_before"]}).json()
    assert (len(first["data"]), len(rest["data"]), rest["next_before"]) == (2, 1, None)
    assert client.get("/audit", params={"action": "nothing"}).status_code == 422


def test_only_an_admin_reads_it(client: TestClient) -> None:
    made = client.post("/keys", json={"name": "ci", "owner": "ann"}).json()
    assert client.get("/audit", headers=bearer(made["key"])).status_code == 403


def test_what_the_api_writes_is_sealed_and_whole(
    client: TestClient, database: Database, settings: Settings
) -> None:
    client.post("/runs", json=RUN)
    pepper = load_pepper(settings)
    Sealer(database, pepper, kept_file(settings))()
    with database.reading() as session:
        verdict = chain.verify(session, pepper, now=now(session))
    assert (verdict.head.number, verdict.fault) == (1, None)
    assert entries(client)[0]["seal"] == verdict.head.seal
