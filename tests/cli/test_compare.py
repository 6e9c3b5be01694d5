"""`finlora compare` and `finlora adapters promote`, on evaluations with given answers."""

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import httpx
import pytest

from finlora_core.db.session import Database
from finlora_core.settings import Settings
from tests.answers import answer
from tests.cli.conftest import Finlora, Publish
from tests.support import BASE_MODEL, bearer

ROWS = 40
RIGHT = ["positive"] * ROWS
WRONG = ["negative"] * 30 + ["positive"] * 10

Evaluate = Callable[..., Sequence[str]]


@pytest.fixture
def evaluate(url: str, key: str, sqlite: Database, settings: Settings) -> Evaluate:
    """The ids of the results of models that give these answers on tfns."""
    path = settings.datasets[0] / "tfns_test.jsonl"
    rows = ({"context": f"Row {n}.", "target": "positive"} for n in range(ROWS))

    def evaluate(*answers: Sequence[str], **keys: Any) -> Sequence[str]:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with httpx.Client(base_url=url, headers=bearer(key)) as client:
            asked = {"tasks": [{"task": "tfns"}], **keys}
            id = client.post("/evaluations", json=asked).raise_for_status().json()["id"]
            answer(sqlite, settings, id, *answers)
            return [one["id"] for one in client.get(f"/evaluations/{id}").json()["results"]]

    return evaluate


def test_a_comparison_is_told_with_its_verdict_and_some_rows(
    finlora: Finlora, publish: Publish, evaluate: Evaluate
) -> None:
    adapter = publish()
    evaluate(WRONG, RIGHT, adapters=[adapter.id], base_model=BASE_MODEL)
    done = finlora("compare", "sentiment", "base", "--task", "tfns")
    assert done.returncode == 0, done.stderr
    head, a, b, _, verdict, split, changed, _, heads, *rows = done.stdout.splitlines()
    assert head.split()[:3] == ["model", "variant", "set"]
    assert a.split()[:5] == ["A", "sentiment", "v1", "fp16_r8", "tfns"]
    assert "100.0 %" in a
    assert b.split()[:3] == ["B", BASE_MODEL, "tfns"]
    assert re.fullmatch(r"A is better: \+75\.0 points \[\d\d\.\d, \d\d\.\d\]", verdict)
    assert split.startswith("A alone is right in 30 rows, B alone in 0 (McNemar's exact test: p =")
    assert re.fullmatch(r"30 of 40 rows changed \(cmp_\w+\)", changed)
    assert heads.split() == ["line", "target", "A", "B"]
    assert [row.split() for row in rows] == [
        [str(line), "positive", "positive", "negative"] for line in range(1, 6)
    ]


def test_versions_of_a_name_are_compared_and_results_too(
    finlora: Finlora, publish: Publish, evaluate: Evaluate
) -> None:
    first, second = publish(), publish()
    results = evaluate(RIGHT, WRONG, adapters=[first.id, second.id])
    by_version = finlora("compare", "sentiment@2", "sentiment@1").stdout
    by_name = finlora("compare", "sentiment", first.id).stdout
    by_result = finlora("compare", results[1], results[0]).stdout
    for said in (by_version, by_name, by_result):
        assert "B is better: +75.0 points" in said
        assert "A alone is right in 0 rows, B alone in 30" in said


def test_a_tolerance_stands_behind_its_metric(
    finlora: Finlora, publish: Publish, evaluate: Evaluate, settings: Settings
) -> None:
    first, second = publish(), publish()
    row = json.dumps({"context": "Cash?", "target": "5"})
    (settings.datasets[0] / "cash.jsonl").write_text(f"{row}\n" * ROWS)
    own = {"dataset_path": "cash.jsonl", "metric": "numeric", "tolerance": 0.5}
    results = evaluate(["5.4"] * ROWS, ["6"] * ROWS, adapters=[first.id, second.id], tasks=[own])
    _, a, b, *_ = finlora("compare", *results).stdout.splitlines()
    assert "cash.jsonl  numeric ±0.5  100.0 %" in a
    assert "cash.jsonl  numeric ±0.5  0.0 %" in b


def test_two_that_agree_show_no_difference_and_no_rows(
    finlora: Finlora, publish: Publish, evaluate: Evaluate
) -> None:
    first, second = publish(), publish()
    evaluate(RIGHT, RIGHT, adapters=[first.id, second.id])
    lines = finlora("compare", first.id, second.id).stdout.splitlines()
    assert lines[4] == f"no difference can be shown with {ROWS} rows"
    assert lines[6].startswith("0 of 40 rows changed")
    assert len(lines) == 7


def test_what_cannot_be_compared_is_said_in_a_line(finlora: Finlora, publish: Publish) -> None:
    publish()
    refused = finlora("compare", "sentiment", "base")
    assert refused.returncode == 1
    assert refused.stderr.startswith("invalid_request: a: adp_")
    assert "has no result: evaluate it first" in refused.stderr
    assert finlora("compare", "sentiment@new", "base").returncode == 2


def test_a_promotion_is_refused_then_granted_by_a_comparison(
    finlora: Finlora, publish: Publish, evaluate: Evaluate
) -> None:
    adapter = publish()
    assert finlora("adapters", "promote", "sentiment", "staging").returncode == 0
    refused = finlora("adapters", "promote", "sentiment", "production")
    assert refused.returncode == 1
    assert refused.stderr.startswith(
        f"evidence_lacking: {adapter.id} stays in staging: it has not"
    )
    evaluate(WRONG, RIGHT, adapters=[adapter.id], base_model=BASE_MODEL)
    shown = re.search(r"cmp_\w+", finlora("compare", "sentiment", "base").stdout)
    assert shown is not None
    granted = finlora("adapters", "promote", adapter.id, "production", "--comparison", shown[0])
    assert granted.stdout == f"sentiment version 1, {adapter.id}: production\n"
    assert finlora("adapters", "list", "--stage", "staging").stdout.count("adp_") == 0
    assert adapter.id in finlora("adapters", "list", "sentiment", "--stage", "production").stdout
    history = finlora("adapters", "show", "sentiment").stdout
    assert f"compared by {shown[0]}" in history


def test_an_override_is_kept_with_the_adapter_and_its_predecessor_steps_back(
    finlora: Finlora, publish: Publish
) -> None:
    first, second = publish(), publish()
    for adapter in (first, second):
        finlora("adapters", "promote", adapter.id, "staging")
        why = ("--override", "for a demonstration")
        done = finlora("adapters", "promote", adapter.id, "production", *why)
        assert done.returncode == 0, done.stderr
    assert "override: for a demonstration" in finlora("adapters", "show", second.id).stdout
    assert f"replaced by {second.id}" in finlora("adapters", "show", first.id).stdout
    wrong = finlora("adapters", "promote", first.id, "live")
    assert (wrong.returncode, "candidate" in wrong.stderr) == (2, True)
