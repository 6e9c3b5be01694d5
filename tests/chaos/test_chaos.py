"""What the service promises when its processes are killed, proven by killing them."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

KILLS = 100
DATABASES = ("sqlite", "postgres")
SECONDS = 230

Chaos = subprocess.Popen[str]


@pytest.fixture(scope="module")
def chaos() -> Iterator[Mapping[str, Chaos]]:
    """One on each database, both at once: they wait more than they work."""
    words = [sys.executable, "-m", "tests.chaos", "--kills", str(KILLS), "--db"]
    root = Path(__file__).parents[2]
    started = {
        db: subprocess.Popen([*words, db], cwd=root, stdout=subprocess.PIPE, text=True)
        for db in DATABASES
    }
    yield started
    for process in started.values():
        process.terminate()  # it stops all that it has started
        process.communicate()


@pytest.mark.timeout(SECONDS + 10)
@pytest.mark.parametrize("db", DATABASES)
def test_no_accepted_run_is_lost_or_trained_twice_at_once_however_much_is_killed(
    chaos: Mapping[str, Chaos], db: str
) -> None:
    said, _ = chaos[db].communicate(timeout=SECONDS)
    assert chaos[db].returncode == 0, said
    summary = json.loads(said.splitlines()[-1])
    assert summary["kills"] >= KILLS
    assert summary["lost"] == summary["finished_twice"] == summary["overlaps"] == 0
    assert summary["orphan_processes"] == 0
    # a service without work, or one whose trainings were never hit, would pass everything
    assert summary["recoveries"] > 0, said
    assert summary["succeeded"] > 0, said
    assert {"kill worker", "kill guard", "kill trainer"} <= summary["faults"].keys()
