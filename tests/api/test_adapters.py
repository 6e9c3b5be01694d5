"""Finished adapters: listed, one file at a time, or all as one archive."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from finlora_core.adapters import archive
from finlora_core.adapters.imports import import_tree
from finlora_core.adapters.manifest import sha256_of
from finlora_core.adapters.store import AdapterStore
from finlora_core.db.models import Adapter
from finlora_core.db.session import Database
from tests.lora import write_adapter

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


def test_a_broken_download_of_the_archive_goes_on_where_it_stopped(
    client: TestClient, adapter: Adapter
) -> None:
    url = f"/adapters/{adapter.id}/download"
    whole = client.get(url)
    size = len(whole.content)
    for place in (0, 1, 511, 512, 1000, size - 1024, size - 1):
        headers = {"Range": f"bytes={place}-", "If-Range": whole.headers["etag"]}
        rest = client.get(url, headers=headers)
        assert rest.status_code == 206
        assert rest.content == whole.content[place:]
        first = client.get(url, headers={"Range": f"bytes=0-{place}"})
        assert first.content == whole.content[: place + 1]
    assert client.head(url).headers["content-length"] == str(size)


def test_one_version_is_found_by_its_name_and_number(client: TestClient, adapter: Adapter) -> None:
    found = client.get("/adapters", params={"name": "sentiment", "version": "1"}).json()
    assert [a["id"] for a in found["data"]] == [adapter.id]
    for params in ({"name": "sentiment", "version": "2"}, {"name": "nope", "version": "1"}):
        assert client.get("/adapters", params=params).status_code == 404
    nameless = client.get("/adapters", params={"version": "1"})
    assert nameless.status_code == 422
    assert "name" in nameless.json()["detail"]


def test_an_adapter_that_was_found_damaged_is_shown_and_not_served(
    client: TestClient, adapter: Adapter, database: Database
) -> None:
    with database.transaction() as session:
        session.get_one(Adapter, adapter.id).damage = "README.md: is missing"
    assert client.get(f"/adapters/{adapter.id}").json()["damage"] == "README.md: is missing"
    for path in (f"files/{WEIGHTS}", "download"):
        response = client.get(f"/adapters/{adapter.id}/{path}")
        assert (response.status_code, response.json()["code"]) == (410, "corrupt")


def test_an_adapter_says_who_can_serve_it_and_how(client: TestClient, adapter: Adapter) -> None:
    serving = client.get(f"/adapters/{adapter.id}").json()["serving"]
    assert {it["verdict"] for it in serving} == {"ok"}
    [newest, *_] = [it["how"] for it in serving if it["engine"] == "vLLM"]
    flags = "--enable-lora --lora-modules sentiment=./sentiment-v1"
    assert newest == f"vllm serve {adapter.base_model} {flags}"
    assert "serving" not in client.get("/adapters").json()["data"][0]


def test_an_imported_rslora_adapter_on_4_bits_has_the_verdicts_of_its_kind(
    client: TestClient, database: Database, store: AdapterStore, tmp_path: Path
) -> None:
    write_adapter(tmp_path / "4bits_r64_rslora" / "formula", rank=64, use_rslora=True)
    [result] = import_tree(database, store, tmp_path)
    assert result.outcome == "imported", result.reason
    serving = client.get(f"/adapters/{result.adapter_id}").json()["serving"]
    seen = {it["engine"]: it for it in reversed(serving)}
    assert seen["SGLang"]["verdict"] == "needs_merge"
    assert "use_rslora is not read" in seen["SGLang"]["reasons"][0]
    assert seen["vLLM"]["verdict"] == "ok"
    assert seen["vLLM"]["how"].endswith("--max-lora-rank 64")
    assert any("4 bits" in reason for reason in seen["vLLM"]["reasons"])
    assert seen["GGUF (llama.cpp)"]["how"].endswith("formula.gguf:8")


def test_files_that_are_damaged_or_gone_have_no_verdict(
    client: TestClient, adapter: Adapter, store: AdapterStore, database: Database
) -> None:
    def serving() -> object:
        return client.get(f"/adapters/{adapter.id}").json()["serving"]

    weights = store.folder(adapter.id) / WEIGHTS
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    assert serving() is None
    weights.unlink()
    assert serving() is None
    weights.write_bytes(whole)
    assert serving() is not None
    with database.transaction() as session:
        session.get_one(Adapter, adapter.id).damage = "README.md: is missing"
    assert serving() is None


def test_a_link_in_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to("secret")
    assert b"".join(archive.read(tmp_path / "secret", 0, 6)) == b"secret"
    with pytest.raises(OSError, match="symbolic links"):
        list(archive.read(tmp_path / "link", 0, 6))


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
