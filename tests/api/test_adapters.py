"""Finished adapters: listed, one file at a time, or all as one archive."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from finlora_core.adapters.manifest import sha256_of
from finlora_core.adapters.store import AdapterStore
from finlora_core.db.models import Adapter

WEIGHTS = "adapter_model.safetensors"


def test_an_adapter_shows_every_file_with_its_hash(client: TestClient, adapter: Adapter) -> None:
    seen = client.get(f"/adapters/{adapter.id}").json()
    assert (seen["name"], seen["variant"], seen["version"]) == ("sentiment", "fp16_r8", 1)
    hashes = {file["path"]: file["sha256"] for file in seen["files"]}
    assert hashes[WEIGHTS] == seen["sha256"]
    assert seen["size"] == sum(file["size"] for file in seen["files"])
    run = client.get(f"/runs/{adapter.run_id}").json()
    assert (run["status"], run["adapter_id"]) == ("succeeded", adapter.id)


def test_adapters_are_listed_and_filtered(client: TestClient, adapter: Adapter) -> None:
    def found(**filters: str) -> list[str]:
        return [a["id"] for a in client.get("/adapters", params=filters).json()["data"]]

    assert found() == found(name="sentiment", variant="fp16_r8") == [adapter.id]
    assert found(variant="8bits_r8") == []


def test_a_file_has_its_hash_as_etag(client: TestClient, adapter: Adapter) -> None:
    url = f"/adapters/{adapter.id}/files/{WEIGHTS}"
    whole = client.get(url)
    digest = hashlib.sha256(whole.content).hexdigest()
    assert whole.headers["etag"] == f'"{digest}"'
    assert digest == adapter.sha256
    again = client.get(url, headers={"If-None-Match": whole.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = client.head(url)
    assert head.headers["content-length"] == str(len(whole.content))
    assert head.content == b""


def test_a_broken_download_goes_on_where_it_stopped(client: TestClient, adapter: Adapter) -> None:
    url = f"/adapters/{adapter.id}/files/{WEIGHTS}"
    whole = client.get(url).content
    rest = client.get(url, headers={"Range": "bytes=100-"})
    assert rest.status_code == 206
    assert whole[:100] + rest.content == whole


def test_the_archive_holds_every_file_and_its_size_is_known(
    client: TestClient, adapter: Adapter, tmp_path: Path
) -> None:
    response = client.get(f"/adapters/{adapter.id}/download")
    assert int(response.headers["content-length"]) == len(response.content)
    with tarfile.open(fileobj=io.BytesIO(response.content)) as tar:
        tar.extractall(tmp_path / "unpacked", filter="data")
    unpacked = tmp_path / "unpacked" / "sentiment-v1"
    found = {path.name: sha256_of(path) for path in unpacked.iterdir()}
    assert found == {file["path"]: file["sha256"] for file in adapter.files}
    assert client.get(f"/adapters/{adapter.id}/download").content == response.content


@pytest.mark.parametrize(
    "path",
    ["optimizer.pt", "nope", "..%2F..%2Ffinlora.db", "%2Fetc%2Fpasswd", ".", "README.md%00"],
)
def test_only_listed_files_can_be_downloaded(
    client: TestClient, adapter: Adapter, store: AdapterStore, path: str
) -> None:
    (store.folder(adapter.id) / "optimizer.pt").write_bytes(b"put there later")
    response = client.get(f"/adapters/{adapter.id}/files/{path}")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


def test_an_adapter_whose_files_are_gone_says_so(
    client: TestClient, adapter: Adapter, store: AdapterStore, tmp_path: Path
) -> None:
    store.folder(adapter.id).rename(tmp_path / "elsewhere")
    for path in (f"files/{WEIGHTS}", "download"):
        response = client.get(f"/adapters/{adapter.id}/{path}")
        assert (response.status_code, response.json()["code"]) == (410, "adapter_files_missing")


@pytest.mark.parametrize("path", ["", "/files/x", "/download"])
def test_an_unknown_adapter_is_not_found(client: TestClient, path: str) -> None:
    response = client.get(f"/adapters/adp_nope{path}")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
