"""`make fuzz`: requests made up from the OpenAPI document, against the real application.

    python -m tests.fuzz --requests 2000 --seed 1 --db sqlite

schemathesis goes through all its phases (examples, coverage, fuzzing, stateful) with all its
checks, round after round with the next seed, until the server has counted that many requests.
The last line is JSON, the exit status 0 only when no answer was a 5xx and no check failed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import api.beside
from finlora_core.settings import load_settings
from tests.chaos.databases import start_database
from tests.service import Service, serving

CONFIG = Path(__file__).with_name("schemathesis.toml")
PHASES = "examples,coverage,fuzzing,stateful"
MOST_ROUNDS = 100
"""Bounded, should a round make few requests."""


def fuzz(service: Service, seed: int, examples: int) -> "subprocess.CompletedProcess[str]":
    """One round; the exit status is 0 when no check failed."""
    words = [
        "--config-file",
        str(CONFIG),
        "run",
        f"{service.url}/openapi.json",
        f"--phases={PHASES}",
    ]
    words += ["--checks=all", f"--seed={seed}", f"--max-examples={examples}"]
    words += ["--continue-on-failure", "--no-color"]
    words += [f"--header=Authorization: Bearer {service.key}"]
    environment = {"PATH": os.environ["PATH"], "COLUMNS": "100"}
    environment["WITHOUT_ADMIN"] = service.key_without_admin
    return subprocess.run(
        [Path(sys.executable).with_name("st"), *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--examples", type=int, default=30, help="for each route and phase")
    parser.add_argument("--db", choices=("sqlite", "postgres"), default="sqlite")
    order = parser.parse_args(arguments)
    api.beside.DELIVER_EVERY = 86400.0  # webhooks are made up, too: nothing may be sent to them
    for name in list(os.environ):  # a developer's own settings must not decide what is tested
        if name.startswith("FINLORA_"):
            del os.environ[name]
    violations = rounds = 0
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        home = Path(folder) / "home"
        home.mkdir()
        database = start_database(order.db, Path(folder))
        stack.callback(database.stop)
        settings = load_settings(
            home=home, device="cpu", database_url=database.url, rate_limit="off"
        )
        service = stack.enter_context(serving(settings))
        counted = service.counted
        while counted.statuses.total() < order.requests and rounds < MOST_ROUNDS:
            done = fuzz(service, order.seed + rounds, order.examples)
            rounds += 1
            print(f"round {rounds}: {counted.statuses.total()} requests", flush=True)
            if done.returncode != 0:
                violations += 1
                print(done.stdout[-20000:], done.stderr[-2000:], flush=True)
                break
    summary = {
        "db": order.db,
        "seed": order.seed,
        "requests": counted.statuses.total(),
        "rounds": rounds,
        "answers_500_or_above": counted.failed,
        "rounds_with_violations": violations,
        "statuses": {str(status): n for status, n in sorted(counted.statuses.items())},
    }
    print(json.dumps(summary), flush=True)
    whole = summary["requests"] >= order.requests
    return 0 if whole and not counted.failed and not violations else 1


if __name__ == "__main__":
    sys.exit(main())
