"""Every error below /v1 has OpenAI's shape, whoever answers it; no other route's has."""

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from api.openai.errors import translate
from finlora_core.settings import Settings
from tests.api.openai.conftest import error_of


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
        ("GET", "/v1/files/file-none", 404, "not_found"),
        ("GET", "/v1/files/dataset_x", 404, "not_found"),
        ("GET", "/v1/files/file-result-none", 404, "not_found"),
        ("GET", "/v1/fine_tuning/jobs/ftjob-none/events?after=ftevent-x", 404, "not_found"),
        ("GET", "/v1/fine_tuning/jobs?limit=0", 400, "invalid_request"),
        ("GET", "/v1/fine_tuning/jobs?metadata[a]=b", 400, "invalid_request"),
        ("GET", "/v1/files?order=asc", 400, "invalid_request"),
        ("POST", "/v1/fine_tuning/jobs", 400, "invalid_json"),
        ("POST", "/v1/files", 400, "malformed_body"),
        ("GET", "/v1/models/ft:a:b:c:none", 404, "not_found"),
    ],
)
def test_an_error_has_openais_shape(
    client: TestClient, method: str, path: str, status: int, code: str
) -> None:
    response = client.request(method, path)
    error = error_of(response)
    assert (response.status_code, error["code"]) == (status, code)
    assert error["type"] == "invalid_request_error"


def test_the_native_routes_keep_theirs(client: TestClient) -> None:
    for path in ("/runs/run_none", "/nothing", "/v1"):
        assert client.get(path).headers["content-type"] == "application/problem+json"


def test_a_large_upload_is_told_with_413(client: TestClient, settings: Settings) -> None:
    body = {"bytes": 2**40, "filename": "x", "mime_type": "text/jsonl", "purpose": "fine-tune"}
    response = client.post("/v1/uploads", json=body)
    assert (response.status_code, error_of(response)["code"]) == (413, "upload_too_large")


def test_the_servers_own_failures_have_it_too(
    client: TestClient, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error, status in (
        (OperationalError("x", {}, Exception("away")), 503),
        (KeyError("x"), 500),
    ):

        def fail(error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(app.state.database, "reading", fail)
        response = client.get("/v1/files")
        assert response.status_code == status
        assert error_of(response)["type"] == "server_error"


def test_what_would_only_fail_again_tells_the_client_so(client: TestClient) -> None:
    rows = b'{"context": "a", "target": "b"}\n' * 2
    sent = {"file": ("x.jsonl", rows)}
    file = client.post("/v1/files", files=sent, data={"purpose": "fine-tune"}).json()["id"]
    job = client.post("/v1/fine_tuning/jobs", json={"model": "a/b", "training_file": file}).json()
    response = client.delete(f"/v1/files/{file}")
    assert (response.status_code, response.headers["x-should-retry"]) == (409, "false")
    message = error_of(response)["message"]
    assert (file in message, job["id"] in message) == (True, True)


def test_types_are_those_that_the_clients_know() -> None:
    types = {}
    for status in (400, 401, 403, 404, 409, 413, 422, 429, 500, 503):
        problem: dict[str, Any] = {"status": status, "code": "c", "detail": "d", "errors": []}
        answered, error = translate(problem)
        types[status] = (answered, error.error.type)
    assert types == {
        400: (400, "invalid_request_error"),
        401: (401, "authentication_error"),
        403: (403, "permission_error"),
        404: (404, "invalid_request_error"),
        409: (409, "invalid_request_error"),
        413: (413, "invalid_request_error"),
        422: (400, "invalid_request_error"),
        429: (429, "rate_limit_error"),
        500: (500, "server_error"),
        503: (503, "server_error"),
    }
