"""The application on SQLite: below /v1 there is no SQL of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
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

RELEASES = (None, "1.109.1", "2.54.0")
"""Of the `openai` package: the developers' environment's, and the newest of each major before."""

VENVS = Path(sys.prefix) / "openai"


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


def python_with(release: str | None) -> Path:
    """Of an environment with this release of the package, made once and kept beside ours; None is
    ours itself."""
    if release is None:
        return Path(sys.executable)
    python = VENVS / release / "bin" / "python"
    if not python.exists():
        half = VENVS / f".{release}.{os.getpid()}"
        uv = str(Path(sys.prefix) / "bin" / "uv")
        subprocess.run(
            [uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, str(half)],
            check=True,
        )
        subprocess.run(
            [uv, "pip", "install", "--quiet", "--python", str(half / "bin" / "python"),
             f"openai=={release}"],
            check=True,
        )  # fmt: skip
        half.rename(VENVS / release)
    return python
