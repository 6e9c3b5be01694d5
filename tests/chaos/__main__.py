"""`make chaos`: what it does, how it goes, what came of it. The last line is JSON."""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict

from tests.chaos.harness import CLIENTS, WORKERS, Order, Outcome, Say, run

PLAN = """\
Chaos: {kills} kills against the real service (seed {seed}, {db}): Redis, the API, {workers}
workers, their guards, and trainers that are a fast stand-in for Axolotl. {clients} clients post,
cancel, pause and resume runs all the while. Takes about {minutes:.1f} minutes on 2 cores. It
  1. kills or stops, at random, the API, workers, guards, trainers and Redis; loses the queue;
     {trouble},
  2. lets everything recover, and waits until every accepted run has ended,
  3. compares what the service says with what the trainers logged under locks of their own:
     nothing lost, nothing finished twice, no two trainings of one run at once, no process left,
     every listed adapter whole. Anything else is exit code 1.
"""

TROUBLE = {
    "sqlite": "holds SQLite's write lock",
    "postgres": "crashes PostgreSQL",
}

SHOWN = 5
"""Of the slowest recoveries."""

SECONDS_A_KILL, SECONDS_AROUND = 0.75, 25


def main() -> int:
    order = _order()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or PostgreSQL would be left behind
    for name in list(os.environ):  # a developer's own settings must not decide what is tested
        if name.startswith("FINLORA_"):
            del os.environ[name]
    minutes = (SECONDS_AROUND + SECONDS_A_KILL * order.kills) / 60
    facts = {**asdict(order), "workers": WORKERS, "clients": CLIENTS, "minutes": minutes}
    print(PLAN.format(trouble=TROUBLE[order.db], **facts), flush=True)
    outcome = run(order, _say())
    _explain(outcome)
    print(json.dumps(outcome.summary()), flush=True)
    return 0 if outcome.passed else 1


def _order() -> Order:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1, help="for the dice, not for the clock")
    parser.add_argument("--db", choices=sorted(TROUBLE), default="sqlite")
    parser.add_argument("--keep", action="store_true", help="keep the folder with all the logs")
    return Order(**vars(parser.parse_args()))


def _say() -> Say:
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - started:6.1f} s  {text}", flush=True)

    return say


def _explain(outcome: Outcome) -> None:
    """What went wrong, by name; where to look."""
    for name, entries in asdict(outcome.verdict).items():
        _list(name, entries)
    _list("not ended", outcome.not_ended)
    _list("slow to recover", [str(slow) for slow in outcome.recoveries[: -SHOWN - 1 : -1]])
    if not outcome.passed:
        print(f"FAILED. Logs, database and the trainers' own logs: {outcome.folder}")


def _list(name: str, entries: Sequence[str]) -> None:
    for entry in entries:
        print(f"  {name}: {entry}")


if __name__ == "__main__":
    sys.exit(main())
