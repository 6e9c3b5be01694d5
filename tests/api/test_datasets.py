"""POST /datasets and everything below it, on both databases."""

import errno
import json
import os
import socket
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx import Response

from api.main import create_app
from finlora_core.adapters.store import AdapterStore
from finlora_core.datasets.files import DatasetFiles
from finlora_core.datasets.sweep import sweep_datasets
from finlora_core.db.models import Dataset
from finlora_core.db.session import Database, now
from finlora_core.settings import Settings
from tests.server import serving
from tests.support import BASE_MODEL, ListQueue, bearer, eventually, make_key

ROW = b'{"context": "Profit rose.", "target": "positive"}\n'
CHAT = (
    b'{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]}\n'
)
ALPACA = b'{"instruction": "Say yes.", "output": "yes"}\n'

BAD_ROWS = [
    (b"", "has 0 rows"),
    (b"\n\n", "has 0 rows"),
    (ROW, "has 1 rows"),
    (ROW + b'{"context": "a"}\n', "line 2: 'target' must be there"),
    (ROW + b'{"context": "a", "target": 1}\n', "line 2: 'target' must be there"),
    (ROW + CHAT, "line 2: 'context' must be there"),
    (CHAT + ROW, "line 2: 'messages' must be there"),
    (ROW + b"\xff\n", "line 2: not UTF-8"),
    (ROW + b"{\n", "line 2: not JSON"),
    (b'{"text": "a"}\n' * 2, "line 1: 'context' must be there"),
]
BAD_BODIES = [
    ("application/json", b"{}"),
    ("multipart/form-data", b""),
    ("multipart/form-data; boundary=x", b"nonsense"),
    ("multipart/form-data; boundary=x", b""),
    (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + ROW * 2,
    ),
    (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="other"; filename="a"\r\n\r\n\r\n--x--',
    ),
    (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"a" * 70_000 + b"\r\n--x--",
    ),
]

BROKEN_OFF = (
    b"POST /datasets HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + ROW * 100
)


def upload(
    client: TestClient, content: bytes = ROW * 3, name: str = "train.jsonl", **fields: str
) -> Response:
    return client.post("/datasets", files={"file": (name, content)}, data=fields)


def uploaded(client: TestClient, content: bytes = ROW * 3, **fields: str) -> dict[str, Any]:
    response = upload(client, content, **fields)
    assert response.status_code == 201, response.text
    dataset: dict[str, Any] = response.json()
    return dataset


def on_disk(settings: Settings) -> list[str]:
    """Every file below the uploads folder, temporary ones too."""
    return sorted(path.name for path in settings.uploads.rglob("*") if path.is_file())


def post_run(client: TestClient, dataset_id: str, **keys: Any) -> Response:
    return client.post(
        "/runs", json={"base_model": BASE_MODEL, "dataset_path": dataset_id, **keys}
    )


def test_an_uploaded_dataset_is_listed_and_given_back(
    client: TestClient, settings: Settings
) -> None:
    response = upload(client)
    dataset = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == f"/datasets/{dataset['id']}"
    assert (dataset["name"], dataset["rows"], dataset["bytes"]) == ("train.jsonl", 3, len(ROW) * 3)
    assert client.get(f"/datasets/{dataset['id']}").json() == dataset
    assert client.get("/datasets").json() == {"data": [dataset], "next_cursor": None}
    assert client.get(f"/datasets/{dataset['id']}/content").content == ROW * 3
    assert on_disk(settings) == [f"{dataset['id']}.jsonl"]


def test_a_part_of_it_can_be_read(client: TestClient) -> None:
    url = f"/datasets/{uploaded(client)['id']}/content"
    response = client.get(url, headers={"Range": "bytes=2-8"})
    assert (response.status_code, response.content) == (206, b"context")


def test_the_list_comes_in_pages_newest_first(client: TestClient) -> None:
    ids = [uploaded(client)["id"] for _ in range(3)]
    first = client.get("/datasets", params={"limit": 2}).json()
    rest = client.get("/datasets", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [row["id"] for row in first["data"] + rest["data"]] == ids[::-1]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize(
    ("content", "form"), [(ROW, "instruction"), (CHAT, "chat"), (ALPACA, "alpaca")]
)
def test_the_form_of_its_rows_is_found_out(client: TestClient, content: bytes, form: str) -> None:
    assert uploaded(client, b"\n" + content * 2)["prompt_format"] == form


def test_what_cannot_be_trained_on_is_refused_by_its_line_and_not_kept(
    client: TestClient, settings: Settings
) -> None:
    for content, reason in BAD_ROWS:
        response = upload(client, content)
        problem = response.json()
        assert (response.status_code, problem["code"]) == (422, "invalid_dataset"), content
        assert f"train.jsonl{'' if 'rows' in reason else ','} {reason}" in problem["detail"]
        assert [error["key"] for error in problem["errors"]] == ["file"]
    assert client.get("/datasets").json()["data"] == []
    assert on_disk(settings) == []


def test_an_endless_line_is_refused(
    client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finlora_core.datasets.check.MAX_LINE_BYTES", 1000)
    response = upload(client, ROW + b'{"context": "' + b"a" * 2000)
    assert response.json()["code"] == "invalid_dataset"
    assert "line 2: longer than" in response.json()["detail"]
    assert on_disk(settings) == []


@pytest.mark.parametrize(
    ("fields", "key", "code"),
    [
        ({"prompt_format": "poem"}, "prompt_format", "invalid_value"),
        ({"expires_after_seconds": "0"}, "expires_after_seconds", "invalid_value"),
        ({"expires_after": "1"}, "expires_after", "unknown_key"),
    ],
)
def test_a_wrong_field_is_named(
    client: TestClient, settings: Settings, fields: dict[str, str], key: str, code: str
) -> None:
    response = client.post("/datasets", files={"file": ("x", ROW * 2)}, data=fields)
    assert response.status_code == 422
    assert [(e["key"], e["code"]) for e in response.json()["errors"]] == [(key, code)]
    assert on_disk(settings) == []


def test_a_body_without_the_file_says_so(client: TestClient) -> None:
    response = client.post("/datasets", files={"prompt_format": (None, "chat")})
    assert response.status_code == 422
    assert response.json()["errors"][0]["key"] == "file"


def test_a_body_that_is_no_upload_is_a_bad_request(client: TestClient, settings: Settings) -> None:
    for content_type, body in BAD_BODIES:
        headers = {"content-type": content_type}
        response = client.post("/datasets", content=body, headers=headers)
        assert (response.status_code, response.json()["code"]) == (400, "malformed_body"), body
    assert on_disk(settings) == []


def test_a_file_name_is_a_name_and_no_path(client: TestClient) -> None:
    names = {"../../etc/passwd": "passwd", "C:\\data\\x.jsonl": "x.jsonl", "..": "dataset.jsonl"}
    assert {sent: upload(client, name=sent).json()["name"] for sent in names} == names


def test_a_full_disk_stores_nothing(
    client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("finlora_core.datasets.files.os.fsync", full)
    response = upload(client)
    assert (response.status_code, response.json()["code"]) == (507, "insufficient_storage")
    assert client.get("/datasets").json()["data"] == []
    assert on_disk(settings) == []


def test_more_than_the_limit_is_refused_before_and_while_it_comes(
    settings: Settings, sqlite: Database
) -> None:
    small = settings.model_copy(update={"max_upload_mib": 1})
    app = create_app(
        settings=small, database=sqlite, queue=ListQueue(), store=AdapterStore(small.adapters)
    )
    with TestClient(app, headers=bearer(make_key(sqlite, small))) as client:
        line = ROW * 1000
        for times in (25, 60):  # within the margin for what stands beside the file, and beyond
            response = upload(client, line * times)
            assert (response.status_code, response.json()["code"]) == (413, "upload_too_large")
            assert "more than 1048576 bytes" in response.json()["detail"]
        assert upload(client, line).status_code == 201
    assert len(on_disk(settings)) == 1


def test_a_connection_that_breaks_leaves_nothing(client: TestClient, settings: Settings) -> None:
    app = client.app
    assert isinstance(app, FastAPI)
    with serving(app) as url:
        address = url.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1]))) as connection:
            key = client.headers["Authorization"].encode()
            connection.sendall(
                BROKEN_OFF.replace(b"\r\n", b"\r\nAuthorization: " + key + b"\r\n", 1)
            )
            assert eventually(lambda: len(on_disk(settings)) == 1)
        assert eventually(lambda: on_disk(settings) == [])
    assert client.get("/datasets").json()["data"] == []


def test_a_key_sent_twice_makes_one_dataset(client: TestClient, settings: Settings) -> None:
    def send(content: bytes) -> Response:
        headers = {"Idempotency-Key": "mine"}
        return client.post("/datasets", files={"file": ("x.jsonl", content)}, headers=headers)

    first, again, other = send(ROW * 2), send(ROW * 2), send(ROW * 3)
    assert first.json() == again.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_conflict")
    assert on_disk(settings) == [f"{first.json()['id']}.jsonl"]


def test_the_first_rows_are_shown_as_they_are_rendered(client: TestClient) -> None:
    id = uploaded(client)["id"]
    rows = client.get(f"/datasets/{id}/preview", params={"rows": 1}).json()["data"]
    assert rows == [
        [
            {"role": "context", "text": "[INST] Profit rose. [/INST]", "is_trained": False},
            {"role": "target", "text": "positive", "is_trained": True},
        ]
    ]


def test_a_preview_of_a_chat_says_what_is_learned(client: TestClient) -> None:
    id = uploaded(client, CHAT * 2)["id"]
    first, second = client.get(f"/datasets/{id}/preview").json()["data"]
    assert first == second
    assert [(turn["role"], turn["is_trained"]) for turn in first] == [
        ("user", False),
        ("assistant", True),
    ]


def test_the_statistics_are_those_of_its_rows(client: TestClient) -> None:
    lines = [{"context": "x" * n, "target": "up" if n % 4 else "down"} for n in range(1, 21)]
    id = uploaded(client, "\n".join(map(json.dumps, lines)).encode())["id"]
    assert client.get(f"/datasets/{id}/stats").json() == {
        "rows": 20,
        # 15 characters are those of "[INST]  [/INST]"
        "given": {"p50": 10 + 15, "p95": 19 + 15, "max": 20 + 15},
        "trained": {"p50": 2, "p95": 4, "max": 4},
        "labels": {"up": 15, "down": 5},
    }


def test_many_different_answers_are_no_labels(client: TestClient) -> None:
    lines = [json.dumps({"context": "x", "target": str(n)}) for n in range(21)]
    id = uploaded(client, "\n".join(lines).encode())["id"]
    assert client.get(f"/datasets/{id}/stats").json()["labels"] is None


# ---- runs on it


def test_a_run_names_it_by_its_id(client: TestClient) -> None:
    train, validation = uploaded(client), uploaded(client, ROW * 2)
    run = post_run(client, train["id"], validation_dataset_path=validation["id"]).json()
    assert run["config"]["dataset_path"] == train["id"]
    assert run["dataset"] == {"path": train["id"], "rows": 3, "sha256": train["sha256"]}


def test_rows_of_another_form_than_the_runs_are_refused_with_the_way_out(
    client: TestClient,
) -> None:
    id = uploaded(client, CHAT * 2)["id"]
    problem = post_run(client, id).json()
    assert problem["code"] == "invalid_dataset"
    assert 'set "prompt_format": "chat"' in problem["detail"]
    assert post_run(client, id, prompt_format="chat").status_code == 201


@pytest.mark.parametrize("key", ["dataset_path", "validation_dataset_path"])
def test_a_dataset_that_is_not_there_is_named_by_its_key(client: TestClient, key: str) -> None:
    keys = {"dataset_path": "train.jsonl", key: "dataset_" + "0" * 20}
    response = client.post("/runs", json={"base_model": BASE_MODEL, **keys})
    assert (response.status_code, response.json()["code"]) == (422, "dataset_not_found")
    assert response.json()["errors"][0]["key"] == key


def test_another_owners_dataset_is_not_there(
    client: TestClient, database: Database, settings: Settings
) -> None:
    id = uploaded(client)["id"]
    files = DatasetFiles(settings.uploads)
    with database.transaction() as session:
        session.get_one(Dataset, id).owner = "somebody"
    for method, path in (("GET", ""), ("GET", "/content"), ("GET", "/stats"), ("DELETE", "")):
        assert client.request(method, f"/datasets/{id}{path}").status_code == 404
    assert client.get("/datasets").json()["data"] == []
    assert post_run(client, id).json()["code"] == "dataset_not_found"
    assert files.path("local", id).is_file()


def test_a_dataset_goes_when_no_run_needs_it(client: TestClient, settings: Settings) -> None:
    id = uploaded(client)["id"]
    run = post_run(client, id).json()["id"]
    response = client.delete(f"/datasets/{id}")
    assert (response.status_code, response.json()["code"]) == (409, "dataset_in_use")
    assert run in response.json()["detail"]
    assert on_disk(settings) == [f"{id}.jsonl"]
    client.post(f"/runs/{run}/cancel")
    assert client.delete(f"/datasets/{id}").status_code == 204
    assert client.delete(f"/datasets/{id}").status_code == 404
    assert on_disk(settings) == []


@pytest.mark.parametrize("id", ["dataset_", "..", "%00", "x" * 300])
def test_an_id_that_nothing_has_is_not_found(client: TestClient, id: str) -> None:
    assert client.delete(f"/datasets/{id}").status_code in (404, 405, 422)


def test_a_dataset_whose_file_is_lost_is_gone(client: TestClient, settings: Settings) -> None:
    id = uploaded(client)["id"]
    DatasetFiles(settings.uploads).path("local", id).unlink()
    for path in ("content", "preview", "stats"):
        response = client.get(f"/datasets/{id}/{path}")
        assert (response.status_code, response.json()["code"]) == (410, "dataset_file_missing")
    assert client.delete(f"/datasets/{id}").status_code == 204


# ---- what is left behind


def test_a_crash_between_file_and_row_leaves_nothing_for_long(
    client: TestClient, database: Database, settings: Settings
) -> None:
    kept = uploaded(client)["id"]
    files = DatasetFiles(settings.uploads)
    unlisted = files.path("local", "dataset_" + "0" * 20)
    unlisted.write_bytes(ROW)
    part = unlisted.with_name(f".{unlisted.stem}.part")
    os.link(unlisted, part)
    os.link(files.path("local", kept), files.path("local", kept).with_name(f".{kept}.part"))
    sweep_datasets(database, files, grace=3600)
    assert part.is_file(), "a request may still be at it"
    sweep_datasets(database, files, grace=-1)
    assert on_disk(settings) == [f"{kept}.jsonl"]


def test_a_dataset_is_removed_when_it_expires_unless_a_run_needs_it(
    client: TestClient, database: Database, settings: Settings
) -> None:
    used, unused, young = (uploaded(client, expires_after_seconds="3600")["id"] for _ in range(3))
    run = post_run(client, used).json()["id"]
    with database.transaction() as session:
        for id in (used, unused):
            session.get_one(Dataset, id).expires_at = now(session)
    files = DatasetFiles(settings.uploads)
    sweep_datasets(database, files, grace=3600)
    assert {row["id"] for row in client.get("/datasets").json()["data"]} == {used, young}
    client.post(f"/runs/{run}/cancel")
    sweep_datasets(database, files, grace=3600)
    assert on_disk(settings) == [f"{young}.jsonl"]
