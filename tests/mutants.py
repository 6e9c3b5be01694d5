"""Would the tests notice? Each mutant breaks one guard of the run protocol; a test must fail.

`make mutants`, or `python -m tests.mutants [word …]` for the mutants with all these words in
their name. Each one is put into a copy of the tree, and tests/contract runs there until a test
fails. It is killed by a test that fails, not by one that cannot even start. The last line is JSON;
the exit status is 0 when every mutant was killed.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
COPIED = ("api", "demo/data", "finlora_core", "migrations", "tests", "worker", "pyproject.toml")

STAGES = ("sqlite and not machine", "not sqlite and not machine", "machine")
"""Tests by their names, the quickest first."""

PYTEST = """
import sys
from pathlib import Path

import hypothesis
import pytest

import finlora_core
import migrations

# one failure will do: a smaller one takes minutes
phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
hypothesis.settings.register_profile("mutants", phases=phases)
hypothesis.settings.load_profile("mutants")
for module in (finlora_core, migrations):  # the copy, not the tree that is installed here
    assert Path(module.__path__[0]).parent == Path.cwd(), module
sys.exit(pytest.main(sys.argv[1:]))
"""
OPTIONS = (
    *("-x", "-q", "-p", "no:cacheprovider", "-o", "timeout=120"),
    *("-W", "ignore:Module already imported", "tests/contract"),
)


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str
    old: str
    """Occurs once in the file."""
    new: str = ""

    def break_copy(self, tree: Path) -> None:
        path = tree / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise SystemExit(f"{self.name}: not exactly once in {self.file}: {self.old!r}")
        path.write_text(text.replace(self.old, self.new))


LIFECYCLE = "finlora_core/runs/lifecycle.py"
OUTCOME = "finlora_core/runs/outcome.py"
TURNS = "finlora_core/runs/turns.py"
RECONCILE = "finlora_core/runs/reconcile.py"
MODELS = "finlora_core/db/models/runs.py"
SESSION = "finlora_core/db/session.py"
FIRST_TABLES = "migrations/versions/0001_the_first_tables.py"
DURABLE_RUNS = "migrations/versions/0002_durable_runs.py"

FENCE = (
    Mutant("the fence forgets the run", LIFECYCLE, "        Run.id == lease.run_id,\n"),
    Mutant("the fence forgets the attempt", LIFECYCLE, "        Run.attempt == lease.attempt,\n"),
    Mutant("the fence forgets the token", LIFECYCLE, "        Run.lease_token == lease.token,\n"),
    Mutant("the fence forgets the expiry", LIFECYCLE, "        Run.lease_expires_at > now,\n"),
    Mutant(
        "a lease holds at the moment of its expiry",
        LIFECYCLE,
        "Run.lease_expires_at > now,",
        "Run.lease_expires_at >= now,",
    ),
    Mutant(
        "the fence does not lock",
        LIFECYCLE,
        "held.with_for_update().execution_options",
        "held.execution_options",
    ),
    Mutant(
        "the fence believes what it has read before",
        LIFECYCLE,
        ".execution_options(populate_existing=True)",
    ),
    Mutant(
        "one token serves all attempts",
        LIFECYCLE,
        "run.attempt + 1, uuid.uuid4().hex)",
        "run.attempt + 1, run.id)",
    ),
    Mutant("renewing does not renew", LIFECYCLE, "    run.lease_expires_at = now + ttl\n"),
    Mutant("renewing tells nothing of a wish", LIFECYCLE, "return run.wish", "return None"),
    Mutant(
        "a beat without progress erases it",
        LIFECYCLE,
        "    if progress is not None:\n        run.progress",
        "    run.progress",
    ),
)

TAKING_AWAY = (
    Mutant("no grace", LIFECYCLE, "lease_expires_at <= now - grace", "lease_expires_at <= now"),
    Mutant(
        "every lease is expired",
        LIFECYCLE,
        "Run.lease_expires_at <= now - grace",
        "Run.lease_expires_at.is_not(None)",
    ),
    Mutant(
        "the grace ends late",
        LIFECYCLE,
        "lease_expires_at <= now - grace",
        "lease_expires_at < now - grace",
    ),
    Mutant(
        "expiring does not lock", LIFECYCLE, "expired.with_for_update(skip_locked=True)", "expired"
    ),
    Mutant(
        "expiring waits for locks",
        LIFECYCLE,
        "expired.with_for_update(skip_locked=True)",
        "expired.with_for_update()",
    ),
    Mutant(
        "taking back forgets the token",
        LIFECYCLE,
        "Run.id == lease.run_id, Run.lease_token == lease.token)",
        "Run.id == lease.run_id)",
    ),
    Mutant(
        "taking back forgets the run",
        LIFECYCLE,
        "Run.id == lease.run_id, Run.lease_token == lease.token)",
        "Run.lease_token == lease.token)",
    ),
    Mutant(
        "taking back does not lock",
        LIFECYCLE,
        "session.scalars(held.with_for_update()).first()",
        "session.scalars(held).first()",
    ),
    Mutant(
        "waiting runs are listed as held",
        LIFECYCLE,
        "held.where(Run.lease_expires_at.is_not(None))",
        "held",
    ),
    Mutant(
        "the reconciler gives no grace",
        RECONCILE,
        "timedelta(seconds=settings.lease_grace_seconds)",
        "timedelta(0)",
    ),
    Mutant(
        "the reconciler takes nothing back",
        RECONCILE,
        "    expire(database, settings)\n    offer",
        "    offer",
    ),
)

CLAIM = (
    Mutant(
        "any status can be claimed",
        LIFECYCLE,
        "        is_waiting(),\n        Run.not_before <= now,\n",
        "        Run.not_before <= now,\n",
    ),
    Mutant(
        "a run is claimed before it is due",
        LIFECYCLE,
        "        is_waiting(),\n        Run.not_before <= now,\n",
        "        is_waiting(),\n",
    ),
    Mutant(
        "a run is not claimed when it becomes due",
        LIFECYCLE,
        "        is_waiting(),\n        Run.not_before <= now,\n",
        "        is_waiting(),\n        Run.not_before < now,\n",
    ),
    Mutant(
        "claiming does not lock",
        LIFECYCLE,
        ".limit(1).with_for_update(skip_locked=True)",
        ".limit(1)",
    ),
    Mutant(
        "claiming waits for locks",
        LIFECYCLE,
        ".limit(1).with_for_update(skip_locked=True)",
        ".limit(1).with_for_update()",
    ),
    Mutant("an owner is served another's run", LIFECYCLE, "        Run.owner == owner,\n"),
    Mutant("a run goes to a worker with too few GPUs", LIFECYCLE, "        Run.gpus <= gpus,\n"),
    Mutant(
        "a run goes to a worker whose GPUs are in use",
        LIFECYCLE,
        "run.gpus > gpus.free",
        "run.gpus > gpus.seen",
    ),
    Mutant(
        "a run that waits for GPUs is passed",
        LIFECYCLE,
        "        if run is not None and run.gpus > gpus.free:\n            return None\n",
        "        if run is not None and run.gpus > gpus.free:\n            continue\n",
    ),
    Mutant("no order among an owner's runs", LIFECYCLE, ".order_by(*OWN_ORDER)"),
    Mutant(
        "an owner whose runs must wait holds up the others",
        LIFECYCLE,
        "session.scalars(owners_in_turn()).all()",
        "session.scalars(owners_in_turn()).all()[:1]",
    ),
    Mutant(
        "an attempt begins with the progress of the last",
        LIFECYCLE,
        "        now,\n        None,\n",
        "        now,\n        run.progress,\n",
    ),
    Mutant(
        "an attempt has no row",
        LIFECYCLE,
        "    session.add(RunAttempt(run_id=run.id, number=run.attempt, worker=worker, "
        "started_at=now))\n",
    ),
    Mutant("busy owners are served first too", TURNS, "line.c.training, "),
    Mutant("owners do not take turns", TURNS, "line.c.served.nulls_first(), "),
    Mutant("a new owner comes last", TURNS, ".nulls_first()"),
    Mutant("how long an owner has waited does not count", TURNS, "line.c.waiting_since, "),
    Mutant("priority does not count", TURNS, "Run.priority.desc(), "),
    Mutant("low priority goes first", TURNS, "Run.priority.desc()", "Run.priority"),
    Mutant("how long a run has waited does not count", TURNS, "Run.queued_at, Run.id)", "Run.id)"),
    Mutant("equal runs come in no order", TURNS, "Run.queued_at, Run.id)", "Run.queued_at)"),
    Mutant("an owner's first turn counts as the last", TURNS, "func.max(", "func.min("),
    Mutant(
        "others' turns count as one's own",
        TURNS,
        "run.owner == owner, run.started_at",
        "run.started_at",
    ),
    Mutant(
        "others' trainings count as one's own",
        TURNS,
        'leased, run.owner + "" == owner',
        "leased",
    ),
    Mutant("who is in training keeps its place", TURNS, " + owners[position].training"),
    Mutant("equal owners are ahead of none", TURNS, " + (n < position)"),
    Mutant(
        "equals of the last one counted are behind it", TURNS, "> _rank(last)", ">= _rank(last)"
    ),
    Mutant("a place counts no higher priority", TURNS, "more + earlier", "earlier"),
)

WISHES = (
    Mutant("wishes do not lock", LIFECYCLE, "with_for_update=True, "),
    Mutant(
        "wishes believe what was read before",
        LIFECYCLE,
        "with_for_update=True, populate_existing=True",
        "with_for_update=True",
    ),
    Mutant("what has ended is cancelled", LIFECYCLE, '    _require_alive(run, "cancel")\n'),
    Mutant("what has ended is paused", LIFECYCLE, '    _require_alive(run, "pause")\n'),
    Mutant("what has ended is resumed", LIFECYCLE, '    _require_alive(run, "resume")\n'),
    Mutant(
        "cancelling again is refused",
        LIFECYCLE,
        "    if run.status is RunStatus.CANCELLED:\n        return run\n",
    ),
    Mutant(
        "cancelling again is a later wish",
        LIFECYCLE,
        "run.cancel_requested_at = run.cancel_requested_at or now",
        "run.cancel_requested_at = now",
    ),
    Mutant(
        "a running run is cancelled behind its worker's back",
        LIFECYCLE,
        "RunStatus.RUNNING:\n        _move(session, run, RunStatus.CANCELLED",
        "RunStatus.SUCCEEDED:\n        _move(session, run, RunStatus.CANCELLED",
    ),
    Mutant(
        "pausing again is refused",
        LIFECYCLE,
        "    if run.status is RunStatus.PAUSED:\n        return run\n",
    ),
    Mutant(
        "pausing again is a later wish",
        LIFECYCLE,
        "run.pause_requested_at = run.pause_requested_at or now",
        "run.pause_requested_at = now",
    ),
    Mutant("anything that runs is paused", LIFECYCLE, "        _require_pausable(run)\n"),
    Mutant(
        "publishing is paused", LIFECYCLE, "    if run.phase is Phase.PUBLISHING:", "    if False:"
    ),
    Mutant(
        "what is being cancelled is paused",
        LIFECYCLE,
        "    if run.cancel_requested_at is not None:",
        "    if False:",
    ),
    Mutant(
        "resuming again is refused",
        LIFECYCLE,
        "    if run.status is RunStatus.QUEUED:\n        return run\n",
    ),
    Mutant(
        "a running run is resumed",
        LIFECYCLE,
        "    if run.status is RunStatus.RUNNING:\n        raise",
        "    if False:\n        raise",
    ),
    Mutant(
        "a resumed run keeps its place",
        LIFECYCLE,
        "run.queued_at = run.not_before = run.offered_at = now",
        "run.not_before = run.offered_at = now",
    ),
    Mutant(
        "a resumed run waits as after its crash",
        LIFECYCLE,
        "run.queued_at = run.not_before = run.offered_at = now",
        "run.queued_at = run.offered_at = now",
    ),
    Mutant(
        "a resumed run counts as offered before",
        LIFECYCLE,
        "run.queued_at = run.not_before = run.offered_at = now",
        "run.queued_at = run.not_before = now",
    ),
    Mutant(
        "any run is retried",
        LIFECYCLE,
        "    if parent.status not in (RunStatus.FAILED, RunStatus.CANCELLED):",
        "    if False:",
    ),
    Mutant(
        "to pause beats to cancel",
        MODELS,
        "        if self.cancel_requested_at is not None:",
        "        if self.cancel_requested_at is not None and self.pause_requested_at is None:",
    ),
)

ENDS = (
    Mutant("crashes are not counted", LIFECYCLE, "    run.crashes += end.is_crash\n"),
    Mutant(
        "everything counts as a crash",
        LIFECYCLE,
        "run.crashes += end.is_crash",
        "run.crashes += 1",
    ),
    Mutant(
        "a checkpoint does not forgive crashes",
        LIFECYCLE,
        "run.checkpoint_step, run.crashes = checkpoint_step, 0",
        "run.checkpoint_step = checkpoint_step",
    ),
    Mutant(
        "an older checkpoint counts",
        LIFECYCLE,
        " and checkpoint_step > (run.checkpoint_step or 0)",
    ),
    Mutant(
        "the same checkpoint counts again",
        LIFECYCLE,
        "checkpoint_step > (run",
        "checkpoint_step >= (run",
    ),
    Mutant("an attempt is not closed", LIFECYCLE, "    _close_attempt(session, run, end, now)\n"),
    Mutant(
        "an ended run keeps its phase",
        LIFECYCLE,
        "run.lease_expires_at = run.phase = None",
        "run.lease_expires_at = None",
    ),
    Mutant(
        "an ended run keeps its holder",
        LIFECYCLE,
        "run.lease_owner = run.lease_token = run",
        "run.lease_token = run",
    ),
    Mutant("the wish to pause stays", LIFECYCLE, "    run.pause_requested_at = None\n"),
    Mutant(
        "a crashed run does not wait",
        LIFECYCLE,
        "now + timedelta(seconds=delay), None",
        "now, None",
    ),
    Mutant("a drained run waits too", LIFECYCLE, " if end.is_crash else 0"),
    Mutant(
        "a run that comes back counts as offered",
        LIFECYCLE,
        "run.not_before, run.offered_at = now + timedelta(seconds=delay), None",
        "run.not_before = now + timedelta(seconds=delay)",
    ),
    Mutant(
        "a run that comes back loses its place",
        LIFECYCLE,
        "        run.not_before, run.offered_at",
        "        run.queued_at = now\n        run.not_before, run.offered_at",
    ),
    Mutant(
        "the end has no time",
        LIFECYCLE,
        "    if new.is_terminal:\n        run.finished_at = now\n",
    ),
    Mutant(
        "a late wish to cancel beats finished work",
        OUTCOME,
        "    if end.end is End.COMPLETED:",
        "    if end.end is End.COMPLETED and wish is not Wish.CANCEL:",
    ),
    Mutant(
        "the wish to cancel is forgotten", OUTCOME, "    if wish is Wish.CANCEL:", "    if False:"
    ),
    Mutant("one crash more", OUTCOME, "crashes >= policy", "crashes > policy"),
    Mutant(
        "crashes without end",
        OUTCOME,
        "(not end.is_crash or crashes >= policy.max_crashes)",
        "not end.is_crash",
    ),
    Mutant("every failure is tried again", OUTCOME, "not end.is_crash or "),
    Mutant(
        "the wish to pause is forgotten", OUTCOME, "RunStatus.PAUSED if wish is Wish.PAUSE else "
    ),
    Mutant("the first crash makes a run wait", OUTCOME, "crashes - 1)", "crashes)"),
)

OFFERS = (
    Mutant(
        "what has ended is marked as offered",
        LIFECYCLE,
        "Run.id.in_(run_ids), Run.status == RunStatus.QUEUED)",
        "Run.id.in_(run_ids))",
    ),
    Mutant(
        "any run is offered",
        LIFECYCLE,
        "            Run.status == RunStatus.QUEUED,\n            Run.not_before <= now,\n",
        "            Run.not_before <= now,\n",
    ),
    Mutant("a run is offered before it is due", LIFECYCLE, "            Run.not_before <= now,\n"),
    Mutant(
        "what was never offered is not offered",
        LIFECYCLE,
        "or_(Run.offered_at.is_(None), Run.offered_at <= before)",
        "Run.offered_at <= before",
    ),
    Mutant(
        "nothing is offered again",
        LIFECYCLE,
        "or_(Run.offered_at.is_(None), Run.offered_at <= before)",
        "Run.offered_at.is_(None)",
    ),
    Mutant(
        "runs are offered in no order", LIFECYCLE, "        .order_by(Run.queued_at, Run.id)\n"
    ),
    Mutant(
        "runs are offered again at once",
        RECONCILE,
        "at - timedelta(seconds=settings.reoffer_seconds)",
        "at",
    ),
    Mutant(
        "what the broker refuses counts as offered",
        RECONCILE,
        "takewhile(queue.offer, waiting)",
        "takewhile(lambda run_id: queue.offer(run_id) or True, waiting)",
    ),
    Mutant(
        "nobody is told of a message that was taken", RECONCILE, "    if offered:", "    if False:"
    ),
)

DATABASE = (
    Mutant("a run that has ended can change", DURABLE_RUNS, '    _freeze("runs", _ENDED)\n'),
    Mutant(
        "an attempt that has ended can change",
        DURABLE_RUNS,
        '    _freeze("attempts", "OLD.ended_at IS NOT NULL")\n',
    ),
    Mutant(
        "a cancelled run can change",
        DURABLE_RUNS,
        "'failed', 'cancelled')\"\n\n\ndef",
        "'failed')\"\n\n\ndef",
    ),
    Mutant(
        "two attempts of a run are alive",
        DURABLE_RUNS,
        "        unique=True,\n",
        "        unique=False,\n",
    ),
    Mutant(
        "an attempt ends without an end",
        DURABLE_RUNS,
        """'(ended_at IS NULL) = ("end" IS NULL)'""",
        "'1 = 1'",
    ),
    Mutant(
        "any word is a status",
        DURABLE_RUNS,
        "\"status IN ('queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled')\"",
        '"1 = 1"',
    ),
    Mutant(
        "what does not run is asked to pause",
        DURABLE_RUNS,
        "\"pause_requested_at IS NULL OR status = 'running'\"",
        '"1 = 1"',
    ),
    Mutant(
        "a run ends without a time",
        FIRST_TABLES,
        "\"(finished_at IS NOT NULL) = (status IN ('succeeded', 'failed', 'cancelled'))\"",
        '"1 = 1"',
    ),
    Mutant(
        "what does not run has a token",
        FIRST_TABLES,
        "\"(lease_token IS NOT NULL) = (status = 'running')\"",
        '"1 = 1"',
    ),
    Mutant(
        "what does not run has a lease",
        FIRST_TABLES,
        "\"(lease_expires_at IS NOT NULL) = (status = 'running')\"",
        '"1 = 1"',
    ),
    Mutant("SQLite lets two write at once", SESSION, '"BEGIN IMMEDIATE"', '"BEGIN"'),
    Mutant(
        "readers of SQLite wait for writers", SESSION, '"BEGIN" if options.get(_READ_ONLY) else '
    ),
    Mutant(
        "the clock stands still in a transaction",
        SESSION,
        "SELECT clock_timestamp()",
        "SELECT now()",
    ),
    Mutant("an ended connection is used", SESSION, "if _says_something(connection):", "if False:"),
    Mutant(
        "whatever a server says ends its connection",
        SESSION,
        "engine.dialect.do_ping(connection)",
        "raise engine.dialect.loaded_dbapi.OperationalError",
    ),
)

MUTANTS = (*FENCE, *TAKING_AWAY, *CLAIM, *WISHES, *ENDS, *OFFERS, *DATABASE)


@dataclass
class Verdict:
    killed_by: str = ""
    """The test that failed; empty when none did."""
    output: str = ""
    """Of a run that neither passed nor failed a test."""

    def __str__(self) -> str:
        if self.output:
            return f"NOT JUDGED: no test failed, and yet\n{self.output}"
        return f"killed by {self.killed_by}" if self.killed_by else "SURVIVED"


def judge(mutant: Mutant | None) -> Verdict:
    """`None` is the tree as it is."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        tree = Path(folder) / "tree"
        _copy(tree)
        if mutant is not None:
            mutant.break_copy(tree)
        for stage in STAGES:
            verdict = _run(tree, stage)
            if verdict.killed_by or verdict.output:
                return verdict
    return Verdict()


def _copy(tree: Path) -> None:
    for name in COPIED:
        source, target = ROOT / name, tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_file():
            shutil.copy(source, target)
        else:
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))


def _run(tree: Path, stage: str) -> Verdict:
    done = subprocess.run(
        [sys.executable, "-B", "-c", PYTEST, *OPTIONS, "-k", stage, f"--basetemp={tree.parent}/t"],
        cwd=tree,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    failed = re.search(r"^FAILED tests/contract/(.+?)(?: - .*)?$", done.stdout, re.MULTILINE)
    if done.returncode == 1 and failed:
        return Verdict(killed_by=failed[1])
    return Verdict(output="" if done.returncode == 0 else done.stdout[-4000:] or "no output")


def main(words: Sequence[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if all(word in mutant.name for word in words)]
    begun = time.monotonic()
    print(f"0/{len(chosen)}  the tree as it is ", end="", flush=True)
    clean = judge(None)
    if clean.killed_by or clean.output:
        print(f"must pass first: {clean.killed_by or clean.output}")
        return 1
    print(f"passes ({time.monotonic() - begun:.0f} s)")
    survived = []
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as at_once:
        for number, (mutant, verdict) in enumerate(
            zip(chosen, at_once.map(judge, chosen), strict=True), 1
        ):
            print(f"{number}/{len(chosen)}  {mutant.name}: {verdict}", flush=True)
            survived += [] if verdict.killed_by else [mutant.name]
    killed = len(chosen) - len(survived)
    seconds = round(time.monotonic() - begun)
    figures = {"mutants": len(chosen), "killed": killed, "survived": survived}
    print(json.dumps({**figures, "seconds": seconds}))
    return 1 if survived or not chosen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
