"""What breaks comes back: a broker that was down, a worker that was killed, Ctrl-C."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

import pytest

from finlora_core.access.first_key import read_key
from finlora_core.client import Client
from finlora_core.errors import Conflict
from finlora_core.settings import Settings
from finlora_core.stack import Stack, running_stack
from tests.e2e.conftest import stack_settings, wait_until_training
from tests.support import BASE_MODEL, eventually

pytestmark = pytest.mark.training

SHORT = {
    "base_model": BASE_MODEL,
    "dataset_path": "train.jsonl",
    "num_epochs": 1,
    "batch_size": 4,
    "gradient_accumulation_steps": 2,
}


@pytest.fixture
def frail(tmp_path: Path, data: Path, tiny_base: Path) -> Iterator[Stack]:
    """A stack of its own, to be broken, that notices a lost worker in seconds."""
    settings = stack_settings(
        tmp_path, data, tiny_base, lease_seconds=12, fence_seconds=5, stop_grace_seconds=1
    )
    with running_stack(settings) as stack:
        yield stack


def test_a_run_posted_while_the_broker_is_down_trains_once_it_is_back(frail: Stack) -> None:
    with Client(frail.url, frail.key) as client:
        kill(frail, "redis")
        run = client.create_run(SHORT)
        assert run["status"] == "queued"
        frail.start_process("redis")
        ended = client.wait(run["id"], lambda seen: None)
        assert ended["status"] == "succeeded", ended["error"]


def test_a_run_outlives_a_worker_that_is_killed(frail: Stack, tmp_path: Path) -> None:
    with Client(frail.url, frail.key) as client:
        run = client.create_run({**SHORT, "num_epochs": 1000})
        wait_until_training(client, run["id"])
        assert processes_below(tmp_path / "runs")
        kill(frail, "worker")
        assert eventually(lambda: not processes_below(tmp_path / "runs")), "trainer left behind"
        frail.start_process("worker")
        assert eventually(lambda: client.get_run(run["id"])["attempt"] >= 2, seconds=60)
        client.cancel_run(run["id"])
        assert client.wait(run["id"], lambda seen: None)["status"] == "cancelled"


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_every_process_that_finlora_up_started(
    tmp_path: Path, data: Path, tiny_base: Path, sig: signal.Signals
) -> None:
    settings = stack_settings(tmp_path, data, tiny_base)
    with finlora_up(settings) as up:
        assert up.stdout is not None
        lines = list(takewhile(lambda line: not line.startswith("Ready"), up.stdout))
        assert any(f":{settings.port}/docs" in line for line in lines), lines
        with Client(f"http://127.0.0.1:{settings.port}", read_key(settings)) as client:
            run = client.create_run({**SHORT, "num_epochs": 1000})
            wait_until_training(client, run["id"])
        assert len(processes_below(tmp_path)) >= 4
        up.send_signal(sig)
        assert up.stdout.read().endswith("Stopped.\n")
        assert up.wait() == 0
    assert processes_below(tmp_path) == []


@contextmanager
def finlora_up(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "finlora_core.cli", "up"]
    env = {**os.environ, **settings.environment(), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as up:
        try:
            yield up
        finally:
            up.terminate()


def test_a_home_in_use_is_not_taken_by_a_second_service(frail: Stack) -> None:
    second = running_stack(frail.settings)
    with pytest.raises(Conflict, match="another `finlora up` is using"), second:
        pass
    with Client(frail.url, frail.key) as client:
        assert client.get_run(client.create_run(SHORT)["id"])["status"] in ("queued", "running")


def test_a_port_in_use_is_named_before_anything_starts(frail: Stack, tmp_path: Path) -> None:
    settings = frail.settings.model_copy(update={"home": tmp_path / "another"})
    with pytest.raises(Conflict, match="choose another port"), running_stack(settings):
        pass


def kill(stack: Stack, name: str) -> None:
    os.kill(stack.pid(name), signal.SIGKILL)


def processes_below(home: Path) -> list[int]:
    """Processes whose command line or working directory lies in `home`."""
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and entry.name != str(os.getpid()) and _is_below(entry, home)
    ]


def _is_below(process: Path, home: Path) -> bool:
    try:
        command = (process / "cmdline").read_bytes().decode(errors="replace")
        return str(home) in command or (process / "cwd").resolve().is_relative_to(home)
    except OSError:  # it has ended, or it is not ours to look at
        return False
