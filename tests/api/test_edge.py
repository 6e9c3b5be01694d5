"""What every answer carries, whatever became of the request; and who may ask."""

import logging

import pytest
from fastapi.testclient import TestClient

from api.edge import HEADERS, Hosts
from finlora_core.db.models import Adapter
from tests.support import ListQueue


class BrokenQueue(ListQueue):
    def count_workers(self) -> int | None:
        raise RuntimeError("postgresql://finlora:hunter2@db/finlora did not answer")


def header(client: TestClient, path: str, name: str, **sent: str) -> str:
    return str(client.get(path, headers=sent).headers[name])


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/runs", {}),
        ("/v1/models", {}),
        ("/openapi.json", {}),
        ("/nothing", {}),
        ("/runs?wrong=1", {}),
        ("/readyz", {}),  # fails
        ("/runs", {"Authorization": "Bearer wrong"}),
        ("/runs", {"Host": "evil.example"}),
    ],
)
def test_every_answer_has_the_headers(client: TestClient, path: str, sent: dict[str, str]) -> None:
    client.app.state.queue = BrokenQueue()  # type: ignore[attr-defined]
    answer = client.get(path, headers=sent)
    got = {name: answer.headers.get(name.decode()) for name in HEADERS}
    assert got == {name: value.decode() for name, value in HEADERS.items()}
    assert answer.headers["X-Request-ID"]


def test_the_documentation_runs_no_script_but_its_own(client: TestClient) -> None:
    policy = header(client, "/docs", "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]


def test_no_other_site_may_read_an_answer(client: TestClient) -> None:
    answer = client.get("/runs", headers={"Origin": "https://evil.example"})
    assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_a_download_may_be_kept_but_must_be_asked_about(
    client: TestClient, adapter: Adapter
) -> None:
    path = f"/adapters/{adapter.id}/files/adapter_model.safetensors"
    assert header(client, path, "Cache-Control") == "private, no-cache"


def test_a_request_keeps_its_id_or_gets_one(client: TestClient) -> None:
    assert header(client, "/runs", "X-Request-ID", **{"X-Request-ID": "ci-17.a_b"}) == "ci-17.a_b"
    made = {header(client, "/runs", "X-Request-ID") for _ in range(3)}
    assert len(made) == 3


@pytest.mark.parametrize("id", ["", "a b", "x" * 65, "é", '"', "a;b", "<script>"])
def test_an_id_that_could_forge_a_log_is_not_kept(client: TestClient, id: str) -> None:
    sent = [(b"X-Request-ID", id.encode())]
    answer = client.get("/runs", headers=sent)
    assert len(answer.headers["X-Request-ID"]) == 16


def test_the_log_names_the_request_that_failed_and_no_secret(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    client.app.state.queue = BrokenQueue()  # type: ignore[attr-defined]
    with caplog.at_level(logging.ERROR):
        answer = client.get("/readyz", headers={"X-Request-ID": "ci-17"})
    assert answer.json()["code"] == "internal_error"
    assert "ci-17" in answer.json()["detail"]
    assert "request ci-17 failed: GET /readyz" in caplog.text
    assert "RuntimeError" in caplog.text
    assert "hunter2" not in caplog.text + answer.text


@pytest.mark.parametrize(
    ("host", "is_allowed"),
    [
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("localhost.", True),
        ("127.0.0.1:8000", True),
        ("10.0.0.7", True),
        ("[::1]:8000", True),
        ("finlora.example", True),
        ("FinLoRA.example:443", True),
        ("www.finlora.example", False),
        ("finlora.example.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("127.1", False),
        ("0x7f000001", False),
        ("::1", False),
        ("localhost:", False),
        ("localhost:80000000", False),
        ("", False),
    ],
)
def test_addresses_and_listed_names_are_answered_to(host: str, is_allowed: bool) -> None:
    assert Hosts(["FinLoRA.example"]).allow(host) is is_allowed


def test_a_star_allows_every_name() -> None:
    assert Hosts(["*"]).allow("any.example")
    assert not Hosts(["*"]).allow("any example")
