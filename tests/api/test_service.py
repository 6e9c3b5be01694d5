"""Health, the OpenAPI document, Swagger UI, and the shape of every error."""

import gc
import re
import weakref
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from api.errors import STATUS, status_of
from api.main import create_app
from finlora_core import errors
from finlora_core.adapters.store import AdapterStore
from finlora_core.db.session import Database
from finlora_core.settings import Settings
from tests.support import ListQueue


def test_a_healthy_service_says_what_works(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    ready = client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json() == {
        "ready": True,
        "database": "ok",
        "broker": "ok",
        "workers": 1,
        "disk": "ok",
    }


def test_without_a_broker_the_service_still_takes_runs(
    client: TestClient, queue: ListQueue
) -> None:
    queue.up = False
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["broker"]) == (200, "unreachable")


def test_swagger_ui_asks_nothing_of_any_other_host(client: TestClient) -> None:
    page = client.get("/docs").text
    assets = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(assets) >= 2
    for asset in assets:
        assert asset.startswith("/"), asset
        assert client.get(asset).status_code == 200
    assert "http://" not in page
    assert "https://" not in page


def test_an_application_that_is_gone_is_not_kept_in_memory(
    settings: Settings, sqlite: Database
) -> None:
    store = AdapterStore(settings.adapters)
    app = create_app(settings=settings, database=sqlite, queue=ListQueue(), store=store)
    with TestClient(app) as client:
        assert client.get("/docs").status_code == 200
        assert client.get("/healthz").status_code == 200
    seen = weakref.ref(app)
    del app, client
    gc.collect()
    assert seen() is None


def test_every_route_has_an_operation_id_a_tag_and_a_description(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    paths = document["paths"].items()
    operations = [op for _, path in paths for op in path.values()]
    schemas = document["components"]["schemas"]
    assert {"Problem", "KeyIssue"} <= set(schemas)
    assert "HTTPValidationError" not in schemas
    for path, operation in ((path, op) for path, ops in paths for op in ops.values()):
        kind = "application/json" if path.startswith("/v1/") else "application/problem+json"
        for status, answer in operation["responses"].items():
            if int(status) >= 400 and operation["operationId"] != "get_readiness":
                assert list(answer["content"]) == [kind]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    for operation in operations:
        assert operation["tags"]
        assert operation["description"]


def test_every_route_is_in_the_documentation(client: TestClient) -> None:
    documents = ("docs/api.md", "docs/openai.md")
    documentation = "".join(Path(document).read_text() for document in documents)
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        for method in operations:
            assert f"`{method.upper()} {path}`" in documentation


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [("GET", "/nope", 404, "not_found"), ("PUT", "/runs", 405, "method_not_allowed")],
)
def test_errors_of_the_framework_have_the_same_shape(
    client: TestClient, method: str, path: str, status: int, code: str
) -> None:
    response = client.request(method, path)
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (response.status_code, problem["status"], problem["code"]) == (status, status, code)


def test_a_new_error_has_its_ancestors_status() -> None:
    assert status_of(errors.LeaseLost) == 409
    assert status_of(errors.DatasetNotFound) == 422
    assert status_of(errors.InvalidAdapter) == 500
    assert all(issubclass(kind, errors.FinLoRAError) for kind in STATUS)


def test_an_unexpected_failure_shows_no_stack_trace(client: TestClient) -> None:
    class BrokenQueue(ListQueue):
        def count_workers(self) -> int | None:
            raise RuntimeError("secret detail")

    client.app.state.queue = BrokenQueue()  # type: ignore[attr-defined]
    response = client.get("/readyz")
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert "secret detail" not in response.text


def test_a_method_that_is_not_there_is_told_which_are(client: TestClient) -> None:
    refused = client.put("/runs")
    assert (refused.status_code, refused.json()["code"]) == (405, "method_not_allowed")
    assert refused.headers["Allow"] == "GET, POST"
