"""Who gets in, and what they get to see: every route of the OpenAPI document is asked."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api import access
from finlora_core.access.scopes import ALL, Scope
from finlora_core.db.models import Adapter
from finlora_core.db.session import Database
from finlora_core.settings import Settings
from tests.answers import answer
from tests.merges import end_merge
from tests.support import BASE_MODEL, bearer, make_key

OPEN = {"/healthz", "/readyz"}
"""Whoever watches the service needs no key; they say nothing of anybody's."""

UPLOAD = {
    "purpose": "fine-tune",
    "filename": "x.jsonl",
    "bytes": 9,
    "mime_type": "application/jsonl",
}
RUN = {"base_model": BASE_MODEL, "dataset_path": "train.jsonl"}

Ask = Callable[..., Any]


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    scopes: frozenset[str]


def operations(client: TestClient) -> Iterator[Operation]:
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method, described in methods.items():
            security = described.get("security") or [{}]
            assert len(security) == 1, f"{method} {path}"
            yield Operation(method.upper(), path, frozenset(security[0].get("key", ())))


@pytest.fixture
def ask(client: TestClient) -> Ask:
    """A request as nobody, or as whoever has the key."""

    def ask(method: str, path: str, key: str | None = None, **request: Any) -> Any:
        client.headers.pop("Authorization", None)
        headers = {**(bearer(key) if key else {}), **request.pop("headers", {})}
        return client.request(method, path, headers=headers, **request)

    return ask


def code_of(answer: Any) -> str:
    """Of a native problem, or of an error as OpenAI has them."""
    body = answer.json()
    code: str = body.get("code") or body["error"]["code"]
    return code


def test_every_route_names_the_scope_that_it_needs(client: TestClient) -> None:
    for operation in operations(client):
        if operation.path in OPEN:
            assert not operation.scopes
        else:
            assert operation.scopes <= ALL, operation
            assert len(operation.scopes) == 1, operation


def test_no_route_but_those_for_health_answers_without_a_key(client: TestClient, ask: Ask) -> None:
    for operation in operations(client):
        answer = ask(operation.method, operation.path)
        if operation.path in OPEN:
            assert answer.status_code == 200
        else:
            assert answer.status_code == 401, operation
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert code_of(answer) == "unauthorized"


def test_a_key_without_the_scope_is_turned_away_from_each_route(
    client: TestClient, ask: Ask, database: Database, settings: Settings
) -> None:
    for operation in list(operations(client)):
        if operation.path in OPEN:
            continue
        lacking = make_key(database, settings, scopes=ALL - set(map(Scope, operation.scopes)))
        answer = ask(operation.method, operation.path, lacking)
        assert answer.status_code == 403, operation
        assert code_of(answer) == "forbidden"
        assert next(iter(operation.scopes)) in answer.text


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer nonsense",
        "Basic YTpi",
        "finlora_x",
        "Bearer a b",
        "bearer x",
    ],
)
def test_what_is_no_key_gets_the_one_answer(client: TestClient, ask: Ask, header: str) -> None:
    answer = ask("GET", "/runs", headers={"Authorization": header})
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert answer.json() == ask("GET", "/runs").json()


def test_a_revoked_key_is_turned_away_at_once_where_it_was_revoked(
    client: TestClient, ask: Ask, database: Database, settings: Settings
) -> None:
    admin = make_key(database, settings)
    made = ask("POST", "/keys", admin, json={"name": "ci", "scopes": ["runs:read"]}).json()
    assert ask("GET", "/runs", made["key"]).status_code == 200
    assert ask("DELETE", f"/keys/{made['id']}", admin).json()["revoked_at"] is not None
    assert ask("GET", "/runs", made["key"]).status_code == 401


def test_elsewhere_within_seconds(
    client: TestClient,
    ask: Ask,
    database: Database,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from finlora_core.access import keys
    from finlora_core.db.session import now

    clock = [1000.0]
    monkeypatch.setattr("api.access.time.monotonic", lambda: clock[0])
    key = make_key(database, settings)
    assert ask("GET", "/runs", key).status_code == 200
    with database.transaction() as session:
        keys.revoke(session, key[8:20], now=now(session))
    clock[0] += access.REMEMBERED
    assert access.REMEMBERED <= 5
    assert ask("GET", "/runs", key).status_code == 401


def test_a_key_is_shown_once_and_may_do_what_it_was_made_for(
    ask: Ask, database: Database, settings: Settings
) -> None:
    admin = make_key(database, settings)
    wanted = {"name": "ci", "owner": "ann", "scopes": ["runs:write"], "expires_days": 1}
    made = ask("POST", "/keys", admin, json=wanted)
    assert made.status_code == 201
    assert made.headers["Cache-Control"] == "no-store"
    posted = ask("POST", "/runs", made.json()["key"], json=RUN)
    assert posted.json()["owner"] == "ann"
    assert made.json()["key"] not in ask("GET", "/keys", admin).text


def test_nobody_gives_a_key_more_than_their_own_may_do(
    ask: Ask, database: Database, settings: Settings
) -> None:
    only_admin = make_key(database, settings, scopes=[Scope.ADMIN])
    refused = ask("POST", "/keys", only_admin, json={"name": "x", "scopes": ["runs:read"]})
    assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")


@pytest.fixture
def things(
    ask: Ask, database: Database, settings: Settings, adapter: Adapter
) -> Mapping[str, str]:
    """What the owner `local` has, by the name of the path's parameter."""
    key = make_key(database, settings)
    row = json.dumps({"context": "Profit rose. ", "target": "positive"}).encode() + b"\n"
    rows = {"file": ("rows.jsonl", row * 3)}
    dataset = ask("POST", "/datasets", key, files=rows).json()
    judged = {"dataset_path": dataset["id"], "metric": "accuracy"}
    asked = {"adapters": [adapter.id], "base_model": BASE_MODEL, "tasks": [judged]}
    evaluation = ask("POST", "/evaluations", key, json=asked).json()["id"]
    answer(database, settings, evaluation, ["positive"] * 3, ["positive"] * 3)
    pair = {"a": adapter.id, "b": "base"}
    judged_so = ask("GET", f"/evaluations/{evaluation}", key).json()
    merge = ask("POST", f"/adapters/{adapter.id}/merge", key, json={}).json()["id"]
    end_merge(database, settings, merge)
    run = ask("POST", "/runs", key, json=RUN).json()
    return {
        "merge_id": merge,
        "evaluation_id": evaluation,
        "comparison_id": ask("POST", "/comparisons", key, json=pair).json()["id"],
        "result_id": judged_so["results"][0]["id"],
        "run_id": run["id"],
        "adapter_id": adapter.id,
        "path": "tokenizer.json",
        "dataset_id": dataset["id"],
        "job_id": run["id"].replace("run_", "ftjob-"),
        "file_id": dataset["id"].replace("dataset_", "file-"),
        "upload_id": ask("POST", "/v1/uploads", key, json=UPLOAD).json()["id"],
        **_told(ask, key),
        "model_id:path": f"ft:{adapter.base_model}:local:{adapter.name}:{adapter.id[4:]}",
        "model_id": f"ft:{adapter.base_model}:local:{adapter.name}:{adapter.id[4:]}",
    }


def _told(ask: Ask, key: str) -> Mapping[str, str]:
    """A webhook, and what it was told of a cancelled run."""
    made = ask("POST", "/webhooks", key, json={"url": "https://hooks.example/"}).json()
    cancelled = ask("POST", "/runs", key, json=RUN).json()["id"]
    ask("POST", f"/runs/{cancelled}/cancel", key)
    (told,) = ask("GET", f"/webhooks/{made['id']}/deliveries", key).json()["data"]
    return {"webhook_id": made["id"], "delivery_id": told["id"]}


BODIES: dict[str, Any] = {
    "/adapters/{adapter_id}/stage": {"json": {"stage": "staging"}},
    "/adapters/{adapter_id}/merge": {"json": {}},
    "/v1/uploads/{upload_id}/complete": {"json": {"part_ids": ["part-none"]}},
}
"""Of routes that look at what was sent before they look who sent it."""

NOT_AN_OWNERS = {"key_id"}
"""Parameters that name nothing of an owner's: keys are the administrators'."""


def test_another_owners_things_are_not_there(
    client: TestClient,
    ask: Ask,
    things: Mapping[str, str],
    database: Database,
    settings: Settings,
) -> None:
    other = make_key(database, settings, owner="other")
    own = make_key(database, settings)
    asked = 0
    for operation in list(operations(client)):
        names = {part[1:-1] for part in operation.path.split("/") if part.startswith("{")}
        if not names or names & NOT_AN_OWNERS:
            continue
        path = operation.path.format_map(things)  # a new parameter needs a thing above
        body = BODIES.get(operation.path, {})
        answer = ask(operation.method, path, other, **body)
        assert answer.status_code == 404, (operation, answer.text)
        nobodys = operation.path.format_map({name: "nobody" for name in names} | {"path": "x"})
        absent = ask(operation.method, nobodys, own, **body)
        assert absent.status_code == 404
        assert code_of(absent) == code_of(answer)
        assert ask("GET", path, own).status_code != 404 or operation.method != "GET"
        asked += 1
    assert asked >= 12


def test_lists_show_an_owners_own_things_only(
    client: TestClient,
    ask: Ask,
    things: Mapping[str, str],
    database: Database,
    settings: Settings,
) -> None:
    other, own = make_key(database, settings, owner="other"), make_key(database, settings)
    lists = ("/runs", "/adapters", "/datasets", "/evaluations", "/comparisons", "/merges")
    for path in (*lists, "/webhooks"):
        assert ask("GET", path, own).json()["data"]
        assert ask("GET", path, other).json()["data"] == []
    named = "/adapters?name=sentiment&version=1"
    assert ask("GET", named, own).status_code == 200
    assert ask("GET", named, other).status_code == 404
