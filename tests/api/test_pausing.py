"""Pause, resume, retry and attempts over HTTP."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from finlora_core.db.session import Database, now
from finlora_core.runs import lifecycle
from finlora_core.runs.lifecycle import Lease
from finlora_core.runs.outcome import AttemptEnd, End
from finlora_core.runs.status import Phase
from finlora_core.training.diagnose import FailureCode, failure
from tests.api.test_runs import claim, post
from tests.support import POLICY, ListQueue

FAILED = AttemptEnd(end=End.FAILED, failure=failure(FailureCode.LOSS_NOT_FINITE))
Ask = Callable[[str], Any]


@pytest.fixture
def ask(client: TestClient) -> Ask:
    """POST to `/runs/<what>`: the status code and the body."""

    def post_to(what: str) -> tuple[int, dict[str, Any]]:
        answer = client.post(f"/runs/{what}")
        return answer.status_code, answer.json()

    return post_to


def finish(database: Database, lease: Lease, end: AttemptEnd) -> None:
    with database.transaction() as session:
        lifecycle.finish(session, lease, end, now=now(session), policy=POLICY)


def test_a_run_is_paused_and_resumed(client: TestClient, ask: Ask, queue: ListQueue) -> None:
    run_id = post(client)["id"]
    status, paused = ask(f"{run_id}/pause")
    assert (status, paused["status"], paused["queue_position"]) == (202, "paused", None)
    assert ask(f"{run_id}/pause") == (202, paused)
    queue.offered.clear()
    status, resumed = ask(f"{run_id}/resume")
    assert (status, resumed["status"], resumed["queue_position"]) == (202, "queued", 0)
    assert queue.offered == [run_id]
    assert ask(f"{run_id}/resume") == (202, resumed)


def test_a_running_run_shows_the_wish_to_pause(
    client: TestClient, ask: Ask, database: Database
) -> None:
    run_id = post(client)["id"]
    claim(database)
    status, asked = ask(f"{run_id}/pause")
    assert (status, asked["status"], asked["pause_requested"]) == (202, "running", True)


def test_what_cannot_be_paused_or_resumed_says_its_status(
    client: TestClient, ask: Ask, database: Database
) -> None:
    run_id = post(client)["id"]
    lease = claim(database)
    status, problem = ask(f"{run_id}/resume")
    assert (status, problem["code"]) == (409, "illegal_transition")
    assert "is running" in problem["detail"]
    with database.transaction() as session:
        lifecycle.enter_phase(session, lease, Phase.PUBLISHING, now=now(session))
    status, problem = ask(f"{run_id}/pause")
    assert (status, problem["code"]) == (409, "illegal_transition")
    assert "publishing" in problem["detail"]
    finish(database, lease, FAILED)
    for verb in ("pause", "resume", "cancel"):
        status, problem = ask(f"{run_id}/{verb}")
        assert (status, problem["code"]) == (409, "illegal_transition")
        assert "failed" in problem["detail"]


@pytest.mark.parametrize("verb", ["pause", "resume", "retry"])
def test_an_unknown_run_is_not_found(ask: Ask, verb: str) -> None:
    status, problem = ask(f"run_nope/{verb}")
    assert (status, problem["code"]) == (404, "not_found")


def test_a_failed_run_is_retried_as_a_new_one(
    client: TestClient, ask: Ask, database: Database, queue: ListQueue
) -> None:
    old = post(client, name="mine", priority=3, time_limit_seconds=60)
    finish(database, claim(database), FAILED)
    answer = client.post(f"/runs/{old['id']}/retry")
    new = answer.json()
    assert (answer.status_code, answer.headers["location"]) == (201, f"/runs/{new['id']}")
    assert new["id"] != old["id"]
    assert (new["parent_id"], new["status"]) == (old["id"], "queued")
    for key in ("name", "config", "dataset", "priority", "time_limit_seconds"):
        assert new[key] == old[key]
    assert queue.offered == [old["id"], new["id"]]


def test_only_a_failed_or_cancelled_run_is_retried(client: TestClient, ask: Ask) -> None:
    run_id = post(client)["id"]
    status, problem = ask(f"{run_id}/retry")
    assert (status, problem["code"]) == (409, "illegal_transition")
    ask(f"{run_id}/cancel")
    assert ask(f"{run_id}/retry")[0] == 201


def test_a_retry_whose_dataset_is_gone_says_so(
    client: TestClient, ask: Ask, dataset: Path
) -> None:
    run_id = post(client)["id"]
    ask(f"{run_id}/cancel")
    dataset.unlink()
    status, problem = ask(f"{run_id}/retry")
    assert (status, problem["code"]) == (422, "dataset_not_found")


def test_each_attempt_is_listed_with_where_it_went_on(
    client: TestClient, database: Database
) -> None:
    run_id = post(client)["id"]
    finish(database, claim(database), AttemptEnd(end=End.DRAINED))
    lease = claim(database)
    with database.transaction() as session:
        at = now(session)
        lifecycle.record_start(session, lease, yaml="", resumed_from=7, now=at)
    attempts = client.get(f"/runs/{run_id}/attempts").json()["data"]
    seen = [(a["number"], a["worker"], a["end"], a["resumed_from"]) for a in attempts]
    assert seen == [(1, "w", "drained", None), (2, "w", None, 7)]
    assert client.get("/runs/run_nope/attempts").status_code == 404


def test_a_run_shows_its_checkpoint_and_its_crashes(
    client: TestClient, database: Database
) -> None:
    run_id = post(client)["id"]
    lease = claim(database)
    with database.transaction() as session:
        ttl = timedelta(minutes=2)
        lifecycle.renew(session, lease, now=now(session), ttl=ttl, checkpoint_step=40)
    crash = AttemptEnd(end=End.FAILED, failure=failure(FailureCode.NCCL_ERROR))
    finish(database, lease, crash)
    run = client.get(f"/runs/{run_id}").json()
    assert (run["status"], run["checkpoint_step"], run["crashes"]) == ("queued", 40, 1)
    assert run["not_before"] is not None


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("priority", 101),
        ("priority", -101),
        ("priority", 1.5),
        ("priority", True),
        ("time_limit_seconds", 0),
        ("time_limit_seconds", -1),
        ("time_limit_seconds", "60"),
    ],
)
def test_a_priority_or_limit_out_of_range_is_named(
    client: TestClient, key: str, value: object
) -> None:
    config = {"base_model": "a/b", "dataset_path": "train.jsonl", key: value}
    answer = client.post("/runs", json=config)
    assert answer.status_code == 422
    assert [problem["key"] for problem in answer.json()["errors"]] == [key]
