"""A client generated from the OpenAPI document works against a live server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from finlora_core.settings import Settings
from tests.service import serving

USE = """
import sys, time
from finlora_client import AuthenticatedClient
from finlora_client.api.adapters import get_adapter, list_adapters
from finlora_client.api.runs import cancel_run, create_run, get_run, list_runs
from finlora_client.models import RunPage, RunRead, RunRequest, RunStatus

url, key = sys.argv[1:]
client = AuthenticatedClient(base_url=url, token=key, raise_on_unexpected_status=True)
request = RunRequest(base_model="finlora/tiny-llama", dataset_path="train.jsonl", name="mine")
made = create_run.sync(client=client, body=request)
assert isinstance(made, RunRead), made
assert made.config.lora_r == 8, made

polled = get_run.sync(made.id, client=client)
assert isinstance(polled, RunRead) and polled.status is RunStatus.QUEUED, polled

seen, cursor = [], None
while cursor is not None or not seen:
    more = {} if cursor is None else {"cursor": cursor}
    page = list_runs.sync(client=client, limit=1, **more)
    assert isinstance(page, RunPage), page
    seen += [run.id for run in page.data]
    cursor = page.next_cursor
assert len(seen) == len(set(seen)) == 2 and made.id in seen, seen

cancelled = cancel_run.sync(made.id, client=client)
assert cancelled.status is RunStatus.CANCELLED, cancelled

missing = get_run.sync_detailed("run_none", client=client)
assert missing.status_code == 404 and missing.parsed.code == "not_found", missing

(adapter,) = list_adapters.sync(client=client).data
assert get_adapter.sync(adapter.id, client=client).files == adapter.files
answer = client.get_httpx_client().get(f"/adapters/{adapter.id}/download")
assert answer.status_code == 200 and len(answer.content) > 1000
print("done")
"""


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the package `finlora_client`, made from docs/openapi.json."""
    folder = tmp_path_factory.mktemp("client")
    config = folder / "config.json"
    config.write_text(json.dumps({"package_name_override": "finlora_client", "post_hooks": []}))
    words = ["generate", "--path", "docs/openapi.json", "--meta", "none", "--config", str(config)]
    words += ["--output-path", str(folder / "finlora_client")]
    made = run(str(Path(sys.executable).with_name("openapi-python-client")), *words)
    assert made.returncode == 0, made.stdout + made.stderr
    return folder


def run(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        words, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_a_generated_client_creates_polls_lists_and_downloads(
    generated: Path, settings: Settings
) -> None:
    with serving(settings) as service:
        used = run(sys.executable, "-c", USE, service.url, service.key, PYTHONPATH=str(generated))
    assert used.stdout == "done\n", used.stderr
