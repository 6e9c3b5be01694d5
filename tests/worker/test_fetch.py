"""A base model that is not at hand comes from the hub: here a small one on this machine."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from pydantic import SecretStr
from safetensors.numpy import save

from finlora_core.db.models import Run
from finlora_core.runs.status import RunStatus
from tests.lora import LAYER, WIDTH
from tests.worker.conftest import GOOD, BenchWith
from worker.attempt import work_until_idle
from worker.bench import Bench

COMMIT = "a" * 40
TOKEN = "hf_" + "t" * 30
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": save({f"{LAYER}.weight": np.zeros((WIDTH, WIDTH), np.float32)}),
    "pytorch_model.bin": b"a pickle",
    "README.md": b"---\nlicense: llama3.1\n---\n# Tiny Llama\n",
}


WANTED = FILES.keys() - {"pytorch_model.bin"}


class Hub(ThreadingHTTPServer):
    """Answers like the hub for one repository; `refusal` is a status and its X-Error-Code."""

    daemon_threads = True
    refusal: tuple[int, str] | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.tokens: set[str | None] = set()
        self.served: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Answers(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.server.refusal:
            status, code = self.server.refusal
            self._send(status, b"", {"X-Error-Code": code})
        elif self.path.startswith("/api/models/"):
            siblings = [{"rfilename": name} for name in FILES]
            body = {"id": "finlora/tiny-llama", "sha": COMMIT, "siblings": siblings}
            self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})
        else:
            name = self.path.rsplit("/", 1)[1]
            self.server.served.add(name)
            self._send(200, FILES[name], {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        yield hub
        hub.shutdown()
        thread.join()


@pytest.fixture
def bench(bench_with: BenchWith, hub: Hub, model: Path, tmp_path: Path) -> Bench:
    """A bench whose models folder lacks the run's base model."""
    model.rename(tmp_path / "away")
    bench = bench_with(GOOD)
    settings = bench.settings.model_copy(
        update={"hf_endpoint": hub.url, "hf_token": SecretStr(TOKEN)}
    )
    return replace(bench, settings=settings)


def test_a_missing_base_model_is_fetched_once_and_kept(
    bench: Bench, hub: Hub, run_id: str, seen: Callable[[], Run]
) -> None:
    work_until_idle(bench)
    run = seen()
    assert run.status is RunStatus.SUCCEEDED, (run.error_code, run.error_log)
    folder = bench.settings.home_dir / "hub" / "finlora" / "tiny-llama"
    assert {path.name for path in folder.iterdir()} == {*WANTED, ".cache"}
    assert f"base_model: {folder}" in (run.axolotl_yaml or "")


def test_pickled_weights_are_never_fetched(bench: Bench, hub: Hub, run_id: str) -> None:
    work_until_idle(bench)
    assert hub.served == WANTED


def test_the_manifest_names_the_hubs_commit_and_the_licence(
    bench: Bench, hub: Hub, run_id: str
) -> None:
    work_until_idle(bench)
    (path,) = bench.settings.adapters.glob("fp16_r8/*/manifest.json")
    manifest = json.loads(path.read_text())
    assert (manifest["base_revision"], manifest["base_license"]) == (COMMIT, "llama3.1")


def test_the_token_goes_to_the_hub_and_into_no_log(
    bench: Bench, hub: Hub, run_id: str, seen: Callable[[], Run]
) -> None:
    hub.refusal = (403, "GatedRepo")
    work_until_idle(bench)
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN not in (seen().error_log or "")


@pytest.mark.parametrize(
    ("status", "code", "failure"),
    [
        (403, "GatedRepo", "gated_model"),
        (401, "GatedRepo", "gated_model"),
        (404, "RepoNotFound", "base_model_not_found"),
        (401, "RepoNotFound", "base_model_not_found"),
    ],
)
def test_what_the_hub_refuses_fails_the_run_with_its_reason(
    bench: Bench,
    hub: Hub,
    run_id: str,
    seen: Callable[[], Run],
    status: int,
    code: str,
    failure: str,
) -> None:
    hub.refusal = (status, code)
    work_until_idle(bench)
    run = seen()
    assert (run.status, run.error_code) == (RunStatus.FAILED, failure)
    assert "finlora/tiny-llama" in (run.error_hint or "")
    assert not (bench.settings.home_dir / "hub" / "finlora" / "tiny-llama").exists()
