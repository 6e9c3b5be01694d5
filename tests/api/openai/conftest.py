"""The application on SQLite: below /v1 there is no SQL of its own."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx import Response

from api.main import create_app
from finlora_core.adapters.store import AdapterStore
from finlora_core.db.session import Database
from finlora_core.settings import Settings
from tests.support import ListQueue, bearer, make_key


@pytest.fixture
def app(settings: Settings, sqlite: Database) -> FastAPI:
    store = AdapterStore(settings.adapters)
    return create_app(settings=settings, database=sqlite, queue=ListQueue(), store=store)


@pytest.fixture
def client(app: FastAPI, settings: Settings, sqlite: Database) -> Iterator[TestClient]:
    headers = bearer(make_key(sqlite, settings))
    with TestClient(app, raise_server_exceptions=False, headers=headers) as client:
        yield client


def error_of(response: Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["content-length"]) == len(response.content)
    body: dict[str, Any] = response.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    return error
