"""How long a training outlives the wish to cancel it: `make bench-cancel`.

The real API and four workers with the timings they have by default; only the trainer is a
stand-in. Half of the runs have a trainer that stops when told to; the others' trainer ignores
TERM, and so does a child of it that has gone to a session of its own. Both kinds take turns, so
they meet the same machine. For each run, counted from the answer to POST /runs/{id}/cancel:
until no process of its tree is left, and until the run says `cancelled`. The last line is JSON.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from signal import SIGKILL
from typing import Any

from finlora_core.access.first_key import make_first_key, read_key
from finlora_core.client import Client
from finlora_core.db.migrate import migrate
from finlora_core.db.session import Database
from finlora_core.settings import Settings, load_settings
from finlora_core.stack import free_port
from tests.chaos.harness import prepare_files
from tests.chaos.parts import Parts
from tests.chaos.processes import Found, Handle, Role, leftover_pids, leftovers, of_attempts
from tests.chaos.verdict import percentile
from tests.support import BASE_MODEL, eventually

RUNS = 100
"""Of each kind."""

WORKERS = 4
LOOK_EVERY = 0.02
GIVE_UP_SECONDS = 60
"""A tree that lives this long after the wish is a survivor."""

PLAN = f"""\
Cancels {2 * RUNS} trainings: {RUNS} that stop when told to, and {RUNS} that ignore TERM together
with a child in another session. On {WORKERS} workers with default timings; about 5 minutes.
Counted from the answer to POST /runs/{{id}}/cancel.
"""


@dataclass
class Cancelled:
    """One run: when it was cancelled, and what was seen since. Seconds of the monotonic clock."""

    number: int
    due: float
    """When to cancel it: at a random moment of the worker's heartbeat."""
    asked: float | None = None
    gone: float | None = None
    ended: float | None = None
    survived: bool = False
    """Whether a process of it lived when the run already said `cancelled`."""

    @property
    def kind(self) -> str:
        return "stubborn" if self.number % 2 else "polite"

    @property
    def is_over(self) -> bool:
        return self.gone is not None and self.ended is not None

    def is_hopeless(self) -> bool:
        return self.asked is not None and time.monotonic() > self.asked + GIVE_UP_SECONDS


@dataclass
class Bench:
    """Follows every run from its first step to its last process."""

    home: Path
    client: Client
    numbers: Mapping[str, int]
    """Each run's own seed, by its id: odd ones are stubborn."""
    heartbeat: float
    dice: Random = field(default_factory=lambda: Random(1))  # noqa: S311
    seen: dict[str, Cancelled] = field(default_factory=dict)

    def run(self, say: Callable[[str], None]) -> None:
        said = 0
        while sum(run.is_over or run.is_hopeless() for run in self.seen.values()) < 2 * RUNS:
            self.look()
            if (done := sum(run.is_over for run in self.seen.values())) >= said + 20:
                said = done
                say(f"{done}/{2 * RUNS} cancelled")
            time.sleep(LOOK_EVERY)

    def look(self) -> None:
        # statuses before processes: what is said to be over must be gone by then
        self._look_at_statuses()
        trees = self._trees()
        for run_id, run in self.seen.items():
            if run.asked is not None and run.gone is None:
                self._look_at_tree(run, trees[run_id])
        for run_id, tree in trees.items():
            self._meet(run_id, tree)

    def _look_at_statuses(self) -> None:
        waiting = {id: run for id, run in self.seen.items() if run.asked and not run.ended}
        for run_id, run in waiting.items():
            if self.client.get_run(run_id)["status"] == "cancelled":
                run.ended = time.monotonic()

    def _look_at_tree(self, run: Cancelled, tree: Sequence[Found]) -> None:
        if not tree:
            run.gone = time.monotonic()
        elif run.ended is not None:
            run.survived = True

    def _trees(self) -> Mapping[str, Sequence[Found]]:
        trees: dict[str, list[Found]] = defaultdict(list)
        for found in of_attempts(self.home):
            trees[found.run_id].append(found)
        return trees

    def _meet(self, run_id: str, tree: Sequence[Found]) -> None:
        """Cancel it a while after its tree is complete."""
        run = self.seen.get(run_id)
        if run is None:
            if self._is_complete(run_id, tree):
                due = time.monotonic() + self.dice.uniform(0, self.heartbeat)
                self.seen[run_id] = Cancelled(self.numbers[run_id], due)
        elif run.asked is None and time.monotonic() >= run.due:
            self.client.cancel_run(run_id)
            run.asked = time.monotonic()

    def _is_complete(self, run_id: str, tree: Sequence[Found]) -> bool:
        wanted = {Role.GUARD, Role.TRAINER}
        wanted |= {Role.STRAGGLER} if self.numbers[run_id] % 2 else set()
        return wanted <= {found.role for found in tree}


def main() -> int:
    for name in list(os.environ):  # the defaults are what is measured
        if name.startswith("FINLORA_"):
            del os.environ[name]
    print(PLAN, flush=True)
    folder = Path(tempfile.mkdtemp(prefix="finlora-cancel-")).resolve()
    settings = load_settings(
        home=folder / "home",
        port=free_port(),
        device="cpu",
        min_free_disk_mib=0,
        rate_limit="off",
    )
    try:
        runs, left = measure(folder, settings)
    finally:
        _leave_nothing(settings.home)
        shutil.rmtree(folder, ignore_errors=True)
    figures = summarise(runs, left)
    for kind in ("polite", "stubborn"):
        print(f"  {kind:8} {figures[kind]}")
    print(json.dumps(figures))
    return 1 if figures["survivors"] else 0


def measure(folder: Path, settings: Settings) -> tuple[Sequence[Cancelled], Sequence[str]]:
    """What was seen of every run, and the processes left when all parts had stopped."""
    plan = prepare_files(folder, settings, "by_parity", 1)
    database = Database.connect(settings.database)
    migrate(database)
    make_first_key(database, settings)
    database.close()
    parts = Parts(settings, plan, workers=WORKERS)
    started = time.monotonic()
    try:
        parts.start()
        with Client(parts.url, read_key(settings)) as client:
            numbers = {_post(client, number): number for number in range(2 * RUNS)}
            bench = Bench(settings.home, client, numbers, settings.heartbeat_seconds)
            bench.run(
                lambda text: print(f"{time.monotonic() - started:6.1f} s  {text}", flush=True)
            )
    finally:
        parts.stop()
    eventually(lambda: not leftovers(settings.home), seconds=3)
    return list(bench.seen.values()), leftovers(settings.home)


def summarise(runs: Sequence[Cancelled], left: Sequence[str]) -> dict[str, Any]:
    late = [run for run in runs if run.survived or not run.is_over]
    kinds = {kind: _times([run for run in runs if run.kind == kind]) for kind in _KINDS}
    return {**kinds, "workers": WORKERS, "survivors": len(late) + len(left), "left": list(left)}


_KINDS = ("polite", "stubborn")


def _times(runs: Sequence[Cancelled]) -> dict[str, float | int | None]:
    gone = sorted(run.gone - run.asked for run in runs if run.gone and run.asked)
    ended = sorted(run.ended - run.asked for run in runs if run.ended and run.asked)
    return {
        "runs": len(runs),
        "tree_gone_p50_s": percentile(gone, 0.5),
        "tree_gone_p99_s": percentile(gone, 0.99),
        "cancelled_p50_s": percentile(ended, 0.5),
        "cancelled_p99_s": percentile(ended, 0.99),
    }


def _post(client: Client, number: int) -> str:
    config = {"base_model": BASE_MODEL, "dataset_path": "train.jsonl", "seed": number}
    run_id: str = client.create_run(config)["id"]
    return run_id


def _leave_nothing(home: Path) -> None:
    for pid in leftover_pids(home):
        with suppress(ProcessLookupError):
            Handle(pid).send(SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
