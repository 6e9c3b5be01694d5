"""Adapters move through their stages by evidence."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from fastapi.testclient import TestClient

from finlora_core.adapters import registry
from finlora_core.db.models import Adapter
from finlora_core.db.session import Database
from tests.api.conftest import RIGHT, WRONG, Evaluate, Publish
from tests.support import BASE_MODEL


def move(client: TestClient, adapter: Adapter, stage: str, **keys: Any) -> Any:
    return client.post(f"/adapters/{adapter.id}/stage", json={"stage": stage, **keys})


def compare(client: TestClient, a: str, b: str) -> dict[str, Any]:
    read: dict[str, Any] = client.post("/comparisons", json={"a": a, "b": b}).json()
    return read


def stages(client: TestClient, **filters: str) -> dict[str, str]:
    found = client.get("/adapters", params=filters).json()["data"]
    return {one["id"]: one["stage"] for one in found}


@pytest.fixture
def present(client: TestClient, adapter: Adapter) -> Adapter:
    """An adapter in production."""
    assert move(client, adapter, "staging").status_code == 200
    assert move(client, adapter, "production", override="the first").status_code == 200
    return adapter


def test_an_adapter_begins_as_a_candidate_and_goes_step_by_step(
    client: TestClient, adapter: Adapter
) -> None:
    assert client.get(f"/adapters/{adapter.id}").json()["stage"] == "candidate"
    refused = move(client, adapter, "production", override="in a hurry")
    assert (refused.status_code, refused.json()["code"]) == (409, "illegal_stage")
    assert "in stage candidate: next comes staging" in refused.json()["detail"]
    for _ in range(2):
        moved = move(client, adapter, "staging")
        assert (moved.status_code, moved.json()["stage"]) == (200, "staging")
    assert move(client, adapter, "candidate").json()["stage"] == "candidate"
    history = client.get(f"/adapters/{adapter.id}").json()["moves"]
    assert [(one["old"], one["new"]) for one in history] == [
        ("staging", "candidate"),
        ("candidate", "staging"),
    ]


def test_the_first_of_its_name_must_be_better_than_its_base_model(
    client: TestClient, adapter: Adapter, evaluate: Evaluate
) -> None:
    move(client, adapter, "staging")
    refused = move(client, adapter, "production")
    assert (refused.status_code, refused.json()["code"]) == (409, "evidence_lacking")
    assert f"not been compared with its base model {BASE_MODEL}" in refused.json()["detail"]
    evaluate(WRONG, RIGHT, adapters=[adapter.id], base_model=BASE_MODEL)
    shown = compare(client, "base", adapter.id)
    assert shown["better"] == "B"
    assert move(client, adapter, "production").json()["stage"] == "production"
    (newest, _) = client.get(f"/adapters/{adapter.id}").json()["moves"]
    assert (newest["comparison_id"], newest["override"]) == (shown["id"], None)


def test_a_better_one_takes_the_place_of_the_one_in_production(
    client: TestClient, present: Adapter, publish: Publish, evaluate: Evaluate
) -> None:
    newer, other = publish(), publish("another")
    move(client, newer, "staging")
    evaluate(WRONG, RIGHT, adapters=[present.id, newer.id])
    assert move(client, newer, "production").status_code == 409
    shown = compare(client, newer.id, present.id)
    assert move(client, newer, "production", comparison_id=shown["id"]).status_code == 200
    assert stages(client) == {
        present.id: "staging",
        newer.id: "production",
        other.id: "candidate",
    }
    assert stages(client, stage="production", name="sentiment") == {newer.id: "production"}
    newest = client.get(f"/adapters/{present.id}").json()["moves"][0]
    assert (newest["new"], newest["replaced_by"]) == ("staging", newer.id)
    told = client.get("/audit?action=adapter.moved").json()["data"][0]
    assert (told["object_id"], told["details"]) == (
        newer.id,
        {"stage": "production", "comparison_id": shown["id"]},
    )


@pytest.mark.parametrize("answers", [(RIGHT, WRONG), (RIGHT, RIGHT)], ids=["worse", "as good"])
def test_one_that_is_not_better_stays_where_it_is_unless_somebody_says_why(
    client: TestClient,
    present: Adapter,
    publish: Publish,
    evaluate: Evaluate,
    answers: tuple[list[str], list[str]],
) -> None:
    newer = publish()
    move(client, newer, "staging")
    evaluate(*answers, adapters=[present.id, newer.id])
    shown = compare(client, newer.id, present.id)
    refused = move(client, newer, "production")
    assert (refused.status_code, refused.json()["code"]) == (409, "evidence_lacking")
    assert f"{shown['id']} compares it with {present.id}" in refused.json()["detail"]
    assert shown["verdict"] in refused.json()["detail"]
    assert stages(client) == {present.id: "production", newer.id: "staging"}
    assert move(client, newer, "production", override="half as large").status_code == 200
    newest = client.get(f"/adapters/{newer.id}").json()["moves"][0]
    assert (newest["override"], newest["comparison_id"]) == ("half as large", shown["id"])
    told = client.get("/audit?action=adapter.moved").json()["data"][0]
    assert told["details"]["override"] == "half as large"


def test_a_comparison_with_another_adapter_is_no_evidence(
    client: TestClient, present: Adapter, publish: Publish, evaluate: Evaluate
) -> None:
    newer, other = publish(), publish("another")
    move(client, newer, "staging")
    evaluate(WRONG, RIGHT, adapters=[other.id, newer.id])
    shown = compare(client, newer.id, other.id)
    refused = move(client, newer, "production", comparison_id=shown["id"])
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["key"] == "comparison_id"
    assert present.id in refused.json()["detail"]
    assert move(client, newer, "production").json()["code"] == "evidence_lacking"


def test_a_damaged_adapter_is_not_promoted(
    client: TestClient, adapter: Adapter, database: Database
) -> None:
    move(client, adapter, "staging")
    with database.transaction() as session:
        registry.get_any_adapter(session, adapter.id).damage = "a bit has flipped"
    refused = move(client, adapter, "production", override="who cares")
    assert (refused.status_code, refused.json()["code"]) == (410, "corrupt")


def test_of_several_that_are_promoted_at_once_one_is_in_production(
    client: TestClient, present: Adapter, publish: Publish
) -> None:
    rivals = [publish() for _ in range(6)]
    for rival in rivals:
        move(client, rival, "staging")
    with ThreadPoolExecutor(len(rivals)) as pool:
        answers = list(pool.map(lambda r: move(client, r, "production", override="me"), rivals))
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert 200 in {answer.status_code for answer in answers}
    assert all(a.json()["code"] == "stage_changed" for a in answers if a.status_code == 409)
    assert len(stages(client, stage="production")) == 1
    assert len(stages(client, stage="staging")) == len(rivals)


BAD = [
    ({"stage": "live"}, "stage", "production"),
    ({}, "stage", "required"),
    ({"stage": "staging", "override": "why not"}, "override", "is for the stage production"),
    ({"stage": "staging", "comparison_id": "cmp_x"}, "comparison_id", "for the stage production"),
    ({"stage": "production", "override": ""}, "override", "at least 1 character"),
    ({"stage": "production", "reason": "x"}, "reason", "unknown key"),
]


@pytest.mark.parametrize(("body", "key", "words"), BAD)
def test_what_is_wrong_is_named(
    client: TestClient, adapter: Adapter, body: dict[str, Any], key: str, words: str
) -> None:
    refused = client.post(f"/adapters/{adapter.id}/stage", json=body)
    assert refused.status_code == 422
    (problem,) = refused.json()["errors"]
    assert problem["key"] == key
    assert words in problem["message"].lower()
