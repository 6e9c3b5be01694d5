"""`finlora submit, status, logs, cancel …` over the API, and what bad config files get."""

import json
import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from finlora_core.db.session import Database
from finlora_core.runs import journal
from finlora_core.settings import Settings
from tests.cli.conftest import Finlora
from tests.server import listening
from tests.support import bearer, eventually

GOOD = {"base_model": "org/model", "dataset_path": "train.jsonl"}
CONFIGS = {"sentiment_8bits_r8": {**GOOD, "quant_bits": 8}, "headline_fp16": GOOD}


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    return write(tmp_path / "configs.json", CONFIGS)


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content, indent=1))
    return path


def runs_of(url: str, key: str) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = httpx.get(f"{url}/runs", headers=bearer(key)).json()["data"]
    return runs


def test_submit_posts_the_named_runs_and_shows_their_ids(
    finlora: Finlora, url: str, key: str, configs: Path
) -> None:
    done = finlora("submit", configs, "headline_fp16")
    assert done.returncode == 0, done.stderr
    (run,) = runs_of(url, key)
    heads, row, last = done.stdout.splitlines()
    assert heads.split() == ["run", "name", "variant", "status"]
    assert row.split() == [run["id"], "headline_fp16", "fp16_r8", "queued"]
    assert last == "1 posted"


def test_submit_all_posts_every_run(finlora: Finlora, url: str, key: str, configs: Path) -> None:
    assert finlora("submit", configs, "--all").returncode == 0
    assert {run["name"] for run in runs_of(url, key)} == CONFIGS.keys()


def test_submit_wants_names_or_all(finlora: Finlora, url: str, key: str, configs: Path) -> None:
    for arguments in ((), ("headline_fp16", "--all")):
        refused = finlora("submit", configs, *arguments)
        assert refused.returncode == 2
        assert "--all" in refused.stderr
    assert runs_of(url, key) == []


def test_nothing_is_posted_when_one_of_the_chosen_runs_is_bad(
    finlora: Finlora, url: str, key: str, tmp_path: Path
) -> None:
    bad = write(tmp_path / "bad.json", {**CONFIGS, "typo": {**GOOD, "lora_rank": 8}})
    refused = finlora("submit", bad, "--all")
    assert refused.returncode == 1
    assert "invalid_config_file" in refused.stderr
    assert "line 14, run 'typo': lora_rank: unknown key" in refused.stderr
    assert runs_of(url, key) == []


def test_a_run_that_the_service_refuses_is_named_and_the_others_are_posted(
    finlora: Finlora, url: str, key: str, tmp_path: Path
) -> None:
    lost = {**GOOD, "dataset_path": "nope.jsonl"}
    file = write(tmp_path / "some.json", {"lost": lost, **CONFIGS})
    done = finlora("submit", file, "--all")
    assert done.returncode == 1
    assert done.stderr.startswith("lost: dataset_not_found: ")
    assert done.stdout.splitlines()[-1] == "2 posted, 1 refused"
    assert len(runs_of(url, key)) == 2


@pytest.mark.parametrize("command", ["finetune", "submit", "render"])
def test_an_unknown_run_name_gets_the_close_ones(
    finlora: Finlora, configs: Path, command: str
) -> None:
    arguments = [configs, "sentiment_8bit_r8"]
    if command == "finetune":
        arguments = ["--config", configs, "--run_name", "sentiment_8bit_r8"]
    refused = finlora(command, *arguments)
    assert refused.returncode == 1
    assert "unknown_name" in refused.stderr
    assert "close to it of 2: sentiment_8bits_r8" in refused.stderr


def test_status_shows_the_newest_runs_or_one(
    finlora: Finlora, url: str, key: str, configs: Path
) -> None:
    finlora("submit", configs, "--all")
    table = finlora("status").stdout
    for run in runs_of(url, key):
        assert any(run["id"] in line and "queued" in line for line in table.splitlines())
    shown = finlora("status", "headline_fp16").stdout
    assert "queued, 1 ahead" in shown
    assert "train.jsonl, 2 rows" in shown


def test_a_run_is_steered_by_its_name_or_id(
    finlora: Finlora, url: str, key: str, configs: Path
) -> None:
    finlora("submit", configs, "headline_fp16")
    (run,) = runs_of(url, key)
    for command, wanted, said in (
        ("pause", "headline_fp16", "paused"),
        ("resume", run["id"], "queued, next"),
        ("cancel", "headline_fp16", "cancelled"),
    ):
        done = finlora(command, wanted)
        assert done.stdout == f"{run['id']} (headline_fp16): {said}\n", done.stderr
    again = finlora("retry", run["id"])
    assert f"tries {run['id']} again" in again.stdout
    assert [each["status"] for each in runs_of(url, key)] == ["queued", "cancelled"]
    late = finlora("resume", run["id"])
    assert (late.returncode, "illegal_transition" in late.stderr) == (1, True)


def test_an_unknown_run_gets_the_close_names(finlora: Finlora, configs: Path) -> None:
    finlora("submit", configs, "--all")
    refused = finlora("status", "headline")
    assert refused.returncode == 1
    assert "close to it of 2: headline_fp16" in refused.stderr
    assert "not_found" in finlora("cancel", "run_nope").stderr


def test_a_log_is_printed_as_it_is(
    finlora: Finlora, url: str, key: str, configs: Path, sqlite: Database
) -> None:
    finlora("submit", configs, "headline_fp16")
    (run,) = runs_of(url, key)
    log = "[INST] :smile: [bold]a[/bold]\n" + "a long line " * 100 + "\n"
    with sqlite.transaction() as session:
        journal.append_log(session, run["id"], log)
    assert finlora("logs", "headline_fp16").stdout == log
    finlora("cancel", run["id"])
    assert finlora("logs", run["id"], "--follow").stdout == log


def test_without_a_service_a_command_says_how_to_get_one(finlora: Finlora) -> None:
    with listening() as door:
        free = door.getsockname()[1]
    refused = finlora("status", "--url", f"http://me:hunter2@127.0.0.1:{free}")
    assert refused.returncode == 1
    assert "start one with `finlora up`" in refused.stderr
    assert f"127.0.0.1:{free}" in refused.stderr
    assert "hunter2" not in refused.stderr


@pytest.mark.parametrize(
    ("address", "code"),
    [("host:port", "invalid_settings"), ("ftp://127.0.0.1", "unavailable")],
)
def test_an_address_that_is_none_is_refused(finlora: Finlora, address: str, code: str) -> None:
    refused = finlora("status", "--url", address)
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"{code}: ")


def test_an_address_of_another_service_is_refused(finlora: Finlora) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        refused = finlora("status", "--url", f"127.0.0.1:{other.server_port}")
        other.shutdown()
    assert refused.stderr.startswith("invalid_answer: ")


def test_finetune_beside_a_running_service_says_what_to_do(
    finlora: Finlora, url: str, key: str, configs: Path
) -> None:
    port = url.rsplit(":", 1)[1]
    refused = finlora(
        "finetune", "headline_fp16", "--config", configs, "--port", port, FINLORA_URL=""
    )
    assert refused.returncode == 1
    assert f"train there with --url {url}" in refused.stderr
    assert runs_of(url, key) == []


def test_finetune_names_a_dataset_that_is_not_there_before_it_starts_anything(
    finlora: Finlora, tmp_path: Path
) -> None:
    file = write(tmp_path / "some.json", {"lost": {**GOOD, "dataset_path": "nope.jsonl"}})
    refused = finlora("finetune", "lost", "--config_json", file, FINLORA_URL="")
    assert refused.returncode == 1
    assert "dataset_not_found" in refused.stderr
    assert refused.stdout == ""


@pytest.mark.parametrize("names", [(), ("headline_fp16", "--run-name", "other")])
def test_finetune_wants_one_name(finlora: Finlora, configs: Path, names: tuple[str, ...]) -> None:
    refused = finlora("finetune", *names, "--config", configs)
    assert refused.returncode == 2
    assert "--run_name" in refused.stderr


def test_ctrl_c_leaves_a_run_of_a_remote_service_alone(
    finlora: Finlora, url: str, key: str, configs: Path
) -> None:
    watching = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "finlora_core.cli",
            "finetune",
            "headline_fp16",
            "--config",
            configs,
        ],
        env={**os.environ, "FINLORA_URL": url, "FINLORA_API_KEY": key},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None
    first = [watching.stdout.readline() for _ in range(2)]
    (run,) = runs_of(url, key)
    assert run["id"] in first[0]
    assert first[1] == "  headline_fp16: queued, next\n"
    watching.send_signal(signal.SIGINT)
    rest = watching.communicate(timeout=60)[0]
    assert watching.returncode == 130
    assert f"finlora logs {run['id']} --url {url} --follow" in rest
    assert f"finlora cancel {run['id']} --url {url}" in rest
    assert runs_of(url, key)[0]["status"] == "queued"


def test_a_run_that_ends_badly_is_told_with_its_status(
    finlora: Finlora, url: str, key: str, configs: Path
) -> None:
    finlora("submit", configs, "headline_fp16")
    watching = subprocess.Popen(
        [sys.executable, "-m", "finlora_core.cli", "finetune", "sentiment_8bits_r8",
         "--config-json", configs],
        env={**os.environ, "FINLORA_URL": url, "FINLORA_API_KEY": key},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert eventually(lambda: len(runs_of(url, key)) == 2)
    finlora("cancel", "sentiment_8bits_r8")
    out, err = watching.communicate(timeout=60)
    assert watching.returncode == 1
    assert "queued, 1 ahead" in out
    assert err.startswith("cancelled: sentiment_8bits_r8 (run_")


def test_render_prints_what_axolotl_would_be_given(
    finlora: Finlora, url: str, configs: Path, settings: Settings
) -> None:
    shown = finlora("render", configs, "sentiment_8bits_r8").stdout
    assert "load_in_8bit: true" in shown
    assert f"path: {settings.datasets[0]}/train.jsonl" in shown
    lost = write(configs.parent / "lost.json", {"lost": {**GOOD, "dataset_path": "nope.jsonl"}})
    assert finlora("render", lost, "lost").stdout.startswith("# logging_steps depends on")
