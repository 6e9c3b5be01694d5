"""Webhooks over HTTP: made, told, listed, deleted; read by OpenAI's own client."""

from collections.abc import Iterator
from ipaddress import ip_network
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.main import create_app
from finlora_core.adapters.store import AdapterStore
from finlora_core.db.session import Database
from finlora_core.settings import Settings
from finlora_core.webhooks import signing
from tests.contract.test_webhooks import Receiver, receiver  # noqa: F401  # a fixture
from tests.support import (
    BASE_MODEL,
    ListQueue,
    bearer,
    eventually,
    make_key,
    write_dataset,
)

RUN = {"base_model": BASE_MODEL, "dataset_path": "train.jsonl"}
HOOK = {"url": "https://hooks.example/finlora"}


@pytest.fixture
def inside(settings: Settings, sqlite: Database) -> Iterator[TestClient]:
    """An API whose operator lets webhooks go to this machine."""
    write_dataset(settings.datasets[0] / "train.jsonl")
    allowing = settings.model_copy(update={"webhook_networks": (ip_network("127.0.0.0/8"),)})
    store = AdapterStore(settings.adapters)
    app = create_app(settings=allowing, database=sqlite, queue=ListQueue(), store=store)
    with TestClient(app, headers=bearer(make_key(sqlite, settings))) as client:
        yield client


def test_an_ended_run_is_told_and_openais_client_reads_it(
    inside: TestClient,
    receiver: Receiver,  # noqa: F811
) -> None:
    made = inside.post("/webhooks", json={"url": receiver.url}).json()
    run_id = inside.post("/runs", json=RUN).json()["id"]
    inside.post(f"/runs/{run_id}/cancel")
    deliveries = f"/webhooks/{made['id']}/deliveries"

    def delivered() -> Any:
        return [each for each in inside.get(deliveries).json()["data"] if each["delivered_at"]]

    assert eventually(delivered)
    ((headers, body),) = receiver.heard
    openai = pytest.importorskip("openai")
    event = openai.OpenAI(api_key="x").webhooks.unwrap(body, headers, secret=made["secret"])
    assert event.type == "fine_tuning.job.cancelled"
    assert event.data.id == run_id.replace("run_", "ftjob-")
    with pytest.raises(openai.InvalidWebhookSignatureError):
        openai.OpenAI(api_key="x").webhooks.unwrap(body + " ", headers, secret=made["secret"])
    (told,) = delivered()
    again = inside.post(f"{deliveries}/{told['id']}/redeliver")
    assert again.status_code == 202
    assert eventually(lambda: len(receiver.heard) == 2)
    assert receiver.heard[1][1] == body


def test_a_webhook_is_made_once_shown_without_its_secret_and_deleted(client: TestClient) -> None:
    key = {"Idempotency-Key": "hook"}
    made = client.post("/webhooks", json=HOOK, headers=key)
    assert made.status_code == 201
    assert made.headers["Cache-Control"] == "no-store"
    assert made.json()["secret"].startswith(signing.PREFIX)
    assert client.post("/webhooks", json=HOOK, headers=key).json() == made.json()
    path = made.headers["Location"]
    assert "secret" not in client.get(path).json()
    assert client.get("/webhooks").json()["data"] == [client.get(path).json()]
    assert client.delete(path).status_code == 204
    assert client.get(path).status_code == 404
    assert client.get("/webhooks").json()["data"] == []


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"url": "http://hooks.example/"}, "url"),
        ({"url": "https://169.254.169.254/latest"}, "url"),
        ({"url": "https://localhost.localdomain@10.0.0.1/"}, "url"),
        ({"events": []}, "events"),
        ({"events": ["runs.started"]}, "events.0"),
        ({"uri": "x"}, "uri"),
    ],
)
def test_a_wrong_webhook_is_refused_with_its_key(
    client: TestClient, wrong: dict[str, Any], key: str
) -> None:
    refused = client.post("/webhooks", json={**HOOK, **wrong})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["key"] == key
    assert client.get("/webhooks").json()["data"] == []
