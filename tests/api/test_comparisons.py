"""Comparisons as the API sees them, of evaluations that have ended with given answers."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from finlora_core.db.models import Adapter
from finlora_core.settings import Settings
from tests.api.conftest import RIGHT, ROWS, WRONG, Evaluate
from tests.support import BASE_MODEL


def post(client: TestClient, a: str, b: str, **keys: Any) -> Any:
    return client.post("/comparisons", json={"a": a, "b": b, **keys})


@pytest.fixture
def both(evaluate: Evaluate, adapter: Adapter) -> tuple[str, str]:
    """The results of a base and of its adapter, which is better."""
    judged = evaluate(WRONG, RIGHT, adapters=[adapter.id], base_model=BASE_MODEL)
    base, tuned = judged["results"]
    return base["id"], tuned["id"]


def test_two_results_are_compared_row_by_row(
    client: TestClient, both: tuple[str, str], adapter: Adapter
) -> None:
    base, tuned = both
    made = post(client, tuned, base)
    assert made.status_code == 201, made.text
    read = made.json()
    assert made.headers["Location"] == f"/comparisons/{read['id']}"
    assert (read["a"]["id"], read["b"]["id"]) == (tuned, base)
    assert (read["a"]["adapter_id"], read["b"]["adapter_id"]) == (adapter.id, None)
    assert (read["metric"], read["rows"], read["difference"]) == ("accuracy", ROWS, 0.75)
    assert 0.5 < read["low"] < 0.75 < read["high"] < 1
    assert read["mcnemar"] == {"only_a": 30, "only_b": 0, "p_value": pytest.approx(2**-29)}
    assert (read["better"], read["changed_rows"]) == ("A", 30)
    assert read["verdict"].startswith("A is better: +75.0 points [")
    assert len(read["examples"]) == 5
    assert read["examples"][0] == {
        "line": 1,
        "target": "positive",
        "a_output": "positive",
        "b_output": "negative",
        "a_score": 1.0,
        "b_score": 0.0,
    }
    assert client.get(f"/comparisons/{read['id']}").json() == read
    assert client.get("/comparisons").json()["data"] == [read]
    lines = client.get(f"/comparisons/{read['id']}/rows")
    assert lines.headers["content-type"] == "application/jsonl"
    rows = [json.loads(line) for line in lines.text.splitlines()]
    assert [row["line"] for row in rows] == list(range(1, 31))
    assert rows[:5] == read["examples"]


def test_an_adapter_and_its_base_stand_for_their_newest_results(
    client: TestClient, evaluate: Evaluate, both: tuple[str, str], adapter: Adapter
) -> None:
    newer = evaluate(WRONG, adapters=[adapter.id])["results"][0]["id"]
    read = post(client, adapter.id, "base", task="tfns").json()
    assert (read["a"]["id"], read["b"]["id"]) == (newer, both[0])
    assert (read["better"], read["difference"], read["changed_rows"]) == (None, 0.0, 0)
    assert read["verdict"] == f"no difference can be shown with {ROWS} rows"
    turned = post(client, "base", both[1]).json()
    assert (turned["a"]["id"], turned["better"]) == (both[0], "B")


def test_of_several_sets_one_that_both_have_answered_is_taken(
    client: TestClient, evaluate: Evaluate, both: tuple[str, str], adapter: Adapter
) -> None:
    evaluate(RIGHT, file="fpb_test.jsonl", adapters=[adapter.id], tasks=[{"task": "fpb"}])
    assert post(client, adapter.id, "base").json()["a"]["id"] == both[1]
    refused = post(client, adapter.id, "base", task="fpb")
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["key"] == "b"
    assert "has no result on fpb: evaluate it first" in refused.json()["detail"]


def test_other_rows_are_refused_with_the_first_difference(
    client: TestClient, evaluate: Evaluate, both: tuple[str, str], adapter: Adapter
) -> None:
    judged = evaluate(["positive"] * 9, adapters=[adapter.id], limit=9)
    line = client.get(f"/evaluations/{judged['id']}/outputs/{judged['results'][0]['id']}").text
    first = json.loads(line.splitlines()[0])["line"]
    assert first > 1, "take a seed that leaves out line 1"
    refused = post(client, judged["results"][0]["id"], both[0])
    assert (refused.status_code, refused.json()["code"]) == (409, "different_rows")
    assert "only B has line 1; A has 9 rows, B 40" in refused.json()["detail"]
    assert client.get("/comparisons").json()["data"] == []


def test_scores_that_mean_different_things_are_not_compared(
    client: TestClient, evaluate: Evaluate, both: tuple[str, str], adapter: Adapter
) -> None:
    own = {"dataset_path": "tfns_test.jsonl", "metric": "accuracy"}
    (result,) = evaluate(RIGHT, adapters=[adapter.id], tasks=[own])["results"]
    assert (
        result["rows_sha256"]
        == client.get(f"/adapters/{adapter.id}").json()["evaluations"][1]["rows_sha256"]
    )
    refused = post(client, result["id"], both[0])
    assert (refused.status_code, refused.json()["code"]) == (409, "not_comparable")
    theirs = "accuracy of negative, neutral, positive on tfns"
    assert f"A was judged by accuracy of positive, B by {theirs}" in refused.text
    few = [{"task": "tfns", "labels": ["positive", "negative"]}]
    (result,) = evaluate(RIGHT, adapters=[adapter.id], tasks=few)["results"]
    refused = post(client, result["id"], both[0])
    assert "A was judged by accuracy of negative, positive on tfns" in refused.text


def test_numbers_judged_with_other_tolerances_are_not_compared(
    client: TestClient, evaluate: Evaluate, settings: Settings, adapter: Adapter
) -> None:
    rows = [{"context": f"Row {n}.", "target": "15092.44"} for n in range(ROWS)]
    file = settings.datasets[0] / "formula_test.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    near = ["15092.45"] * ROWS

    def judge(**keys: float) -> Any:
        asked = {"adapters": [adapter.id], "base_model": BASE_MODEL}
        return evaluate(near, near, tasks=[{"task": "formula", **keys}], **asked)["results"]

    strict, loose = judge(), judge(tolerance=0.01)
    assert [(one["tolerance"], one["value"]) for one in strict] == [(0.005, 0.0)] * 2
    assert [(one["tolerance"], one["value"]) for one in loose] == [(0.01, 1.0)] * 2
    shown = client.get(f"/adapters/{adapter.id}").json()["evaluations"]
    assert [one["tolerance"] for one in shown] == [0.01, 0.005]
    refused = post(client, loose[1]["id"], strict[0]["id"])
    assert (refused.status_code, refused.json()["code"]) == (409, "not_comparable")
    assert (
        "A was judged by numeric within 0.01 on formula, B by numeric within 0.005 on formula"
        in (refused.json()["detail"])
    )
    judge(tolerance=0.1)
    assert post(client, strict[1]["id"], "base").json()["b"]["id"] == strict[0]["id"]


def test_free_text_is_compared_without_mcnemar(client: TestClient, evaluate: Evaluate) -> None:
    own = {"dataset_path": "tfns_test.jsonl", "metric": "rouge_l"}
    a, b = (
        evaluate(texts, base_model=BASE_MODEL, tasks=[own])["results"][0]["id"]
        for texts in (["positive it is"] * ROWS, ["positive"] * ROWS)
    )
    read = post(client, a, b).json()
    assert (read["mcnemar"], read["better"], read["changed_rows"]) == (None, "B", ROWS)
    assert read["verdict"] == "B is better: +50.0 points [50.0, 50.0]"


def test_an_idempotency_key_makes_one_comparison(
    client: TestClient, both: tuple[str, str]
) -> None:
    body = {"a": both[0], "b": both[1]}
    for _ in range(2):
        made = client.post("/comparisons", json=body, headers={"Idempotency-Key": "once"})
        assert made.status_code == 201
    assert len(client.get("/comparisons").json()["data"]) == 1
    told = client.get("/audit?action=comparison.created").json()["data"]
    assert [entry["object_id"] for entry in told] == [made.json()["id"]]


BAD = [
    ({"a": "res_none", "b": "base"}, "a", "there is no evaluation result"),
    ({"a": "adp_none", "b": "base"}, "a", "there is no adapter"),
    ({"a": "base", "b": "adp_none"}, "a", "there is no adapter"),
    ({"a": "base", "b": "base"}, "b", "is the same as a"),
    ({"a": "run_x", "b": "base"}, "a", "match"),
    ({"a": "base"}, "b", "required"),
    ({"a": "adp_x", "b": "base", "task": "tnfs"}, "task", "tfns"),
    ({"a": "adp_x", "b": "base", "taks": "tfns"}, "taks", "task"),
]


@pytest.mark.parametrize(("body", "key", "words"), BAD, ids=map(str, range(len(BAD))))
def test_what_is_wrong_is_named(
    client: TestClient, body: dict[str, Any], key: str, words: str
) -> None:
    refused = client.post("/comparisons", json=body)
    assert refused.status_code == 422, refused.text
    problem = refused.json()
    assert key in {one["key"] for one in problem["errors"]}, problem
    assert words in problem["detail"].lower(), problem


def test_an_adapter_that_nobody_judged_has_nothing_to_compare(
    client: TestClient, adapter: Adapter
) -> None:
    refused = post(client, adapter.id, "base")
    assert refused.status_code == 422
    assert f"a: {adapter.id} has no result: evaluate it first" in refused.json()["detail"]
