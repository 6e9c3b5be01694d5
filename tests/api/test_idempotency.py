"""`Idempotency-Key` over HTTP: a POST whose answer was lost may be sent again."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.support import BASE_MODEL, ListQueue

RUN = {"base_model": BASE_MODEL, "dataset_path": "train.jsonl"}
KEY = {"Idempotency-Key": "night-run-7"}


def post(client: TestClient, path: str = "/runs", **keys: Any) -> Any:
    return client.post(path, json={**RUN, **keys}, headers=KEY)


def test_a_repeated_post_answers_with_the_first_ones_run(
    client: TestClient, queue: ListQueue
) -> None:
    first, again = post(client), post(client)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    assert again.headers["Location"] == first.headers["Location"]
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert queue.offered == [first.json()["id"]]


def test_another_body_with_the_same_key_is_a_conflict(client: TestClient) -> None:
    post(client)
    refused = post(client, lora_r=4)
    assert (refused.status_code, refused.json()["code"]) == (409, "idempotency_conflict")
    assert len(client.get("/runs").json()["data"]) == 1


def test_fifty_posts_at_once_make_one_run(client: TestClient, queue: ListQueue) -> None:
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: post(client), range(50)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert len(client.get("/runs").json()["data"]) == 1
    assert len(queue.offered) == 1


def test_a_retry_is_made_once(client: TestClient) -> None:
    run_id = post(client).json()["id"]
    client.post(f"/runs/{run_id}/cancel")
    ids = [
        client.post(f"/runs/{run_id}/retry", headers={"Idempotency-Key": "r"}).json()["id"]
        for _ in range(2)
    ]
    assert ids[0] == ids[1] != run_id


@pytest.mark.parametrize("key", ["", "k" * 256, "with space"])
def test_a_key_is_short_and_printable(client: TestClient, key: str) -> None:
    refused = client.post("/runs", json=RUN, headers={"Idempotency-Key": key})
    assert refused.status_code == 422
    assert "idempotency-key" in refused.json()["detail"].lower()


def test_a_key_cannot_be_made_once_since_nothing_keeps_it_to_show_it_again(
    client: TestClient,
) -> None:
    before = len(client.get("/keys").json()["data"])
    refused = client.post("/keys", json={"name": "ci"}, headers=KEY)
    assert refused.status_code == 422
    assert [each["key"] for each in refused.json()["errors"]] == ["Idempotency-Key"]
    assert len(client.get("/keys").json()["data"]) == before
