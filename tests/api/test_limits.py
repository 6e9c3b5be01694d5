"""How many requests a key may send, in this process and through Redis."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
from fastapi.testclient import TestClient

from api.main import create_app
from finlora_core.adapters.store import AdapterStore
from finlora_core.db.session import Database
from finlora_core.settings import Settings
from finlora_core.stack import redis_command
from tests.server import serving
from tests.support import ListQueue, bearer, eventually, make_key


@pytest.fixture
def limited(settings: Settings) -> Settings:
    return settings.model_copy(update={"rate_limit": "3/hour"})


@contextmanager
def client_of(settings: Settings, database: Database) -> Iterator[TestClient]:
    store = AdapterStore(settings.adapters)
    app = create_app(settings=settings, database=database, queue=ListQueue(), store=store)
    headers = bearer(make_key(database, settings))
    with TestClient(app, raise_server_exceptions=False, headers=headers) as client:
        yield client


@pytest.fixture
def client(limited: Settings, sqlite: Database) -> Iterator[TestClient]:
    with client_of(limited, sqlite) as client:
        yield client


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A Redis of our own at `tmp_path / "r.sock"`."""
    socket = tmp_path / "r.sock"
    server = subprocess.Popen(redis_command(socket), stdout=subprocess.DEVNULL)
    assert eventually(socket.exists)
    yield server
    server.kill()
    server.wait()


def test_every_answer_says_what_is_left_and_the_first_too_many_is_429(client: TestClient) -> None:
    answers = [client.get(path) for path in ("/runs", "/runs/none", "/runs?limit=0", "/keys")]
    assert [answer.status_code for answer in answers] == [200, 404, 422, 429]
    assert [answer.headers["RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0"]
    assert {answer.headers["RateLimit-Limit"] for answer in answers} == {"3"}
    refused = answers[-1]
    assert (refused.json()["code"], refused.json()["status"]) == ("rate_limited", 429)
    assert refused.headers["content-type"] == "application/problem+json"
    wait = int(refused.headers["Retry-After"])
    assert 0 < wait <= 3600 + 1200 + 1
    assert refused.headers["RateLimit-Reset"] == str(wait)


def test_a_request_with_a_body_counts_once(client: TestClient) -> None:
    answers = [client.post("/runs", json={}), client.get("/runs?wrong=1"), client.get("/runs")]
    assert [answer.status_code for answer in answers] == [422, 422, 200]
    assert [answer.headers["RateLimit-Remaining"] for answer in answers] == ["2", "1", "0"]


def test_what_needs_no_key_is_not_counted(client: TestClient) -> None:
    for path in ("/healthz", "/readyz", "/openapi.json", "/docs"):
        for _ in range(4):
            answer = client.get(path)
            assert answer.status_code == 200
            assert "RateLimit-Limit" not in answer.headers


def test_each_key_has_its_own_count(
    client: TestClient, limited: Settings, sqlite: Database
) -> None:
    for _ in range(4):
        client.get("/runs")
    other = bearer(make_key(sqlite, limited))
    assert client.get("/runs").status_code == 429
    assert client.get("/runs", headers=other).status_code == 200


def test_the_openai_package_raises_its_rate_limit_error(
    limited: Settings, sqlite: Database
) -> None:
    store = AdapterStore(limited.adapters)
    app = create_app(settings=limited, database=sqlite, queue=ListQueue(), store=store)
    with serving(app) as url:
        key = make_key(sqlite, limited)
        with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as ai:
            for _ in range(3):
                ai.files.list()
            with pytest.raises(openai.RateLimitError) as raised:
                ai.files.list()
    assert (raised.value.code, raised.value.type) == ("rate_limited", "rate_limit_error")
    assert int(raised.value.response.headers["Retry-After"]) > 0


def test_without_a_limit_nothing_is_told(settings: Settings, sqlite: Database) -> None:
    with client_of(settings, sqlite) as client:
        assert "RateLimit-Limit" not in client.get("/runs").headers


def test_processes_that_share_redis_share_the_count(
    limited: Settings, sqlite: Database, tmp_path: Path, redis: subprocess.Popen[bytes]
) -> None:
    shared = limited.model_copy(update={"broker_url": f"redis+socket://{tmp_path / 'r.sock'}"})
    with client_of(shared, sqlite) as one, client_of(shared, sqlite) as other:
        other.headers.update(one.headers)
        statuses = [each.get("/runs").status_code for each in (one, other, one, other, one)]
    assert statuses == [200, 200, 200, 429, 429]


def test_each_process_counts_by_itself_while_redis_is_away(
    limited: Settings,
    sqlite: Database,
    tmp_path: Path,
    redis: subprocess.Popen[bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    shared = limited.model_copy(update={"broker_url": f"redis+socket://{tmp_path / 'r.sock'}"})
    with client_of(shared, sqlite) as client:
        assert client.get("/runs").headers["RateLimit-Remaining"] == "2"
        redis.kill()
        redis.wait()
        statuses = [client.get("/runs").status_code for _ in range(4)]
    assert statuses == [200, 200, 200, 429]
    assert caplog.text.count("Redis is away") == 1
