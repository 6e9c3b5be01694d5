"""Whatever happens in whatever order, the database does what the model says, on both databases.

Hypothesis makes up the order: users, workers that crash and come back, answers that are lost
after the commit, messages that come twice, a clock that jumps. What holds after every step is
said twice: exactly, by the model, and as rules that need no model.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from itertools import count
from typing import Any, ClassVar
from uuid import NAMESPACE_OID, UUID, uuid5

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from finlora_core.db.models import Event, Run, RunAttempt
from finlora_core.db.session import Database
from finlora_core.errors import IllegalTransition, LeaseLost
from finlora_core.runs import lifecycle
from finlora_core.runs.lifecycle import Lease, Order
from finlora_core.runs.outcome import AttemptEnd, End
from finlora_core.runs.status import Phase
from finlora_core.training.diagnose import FailureCode, failure
from tests.contract.model import GRACE, TTL, Fenced, Model, Ref, Refused
from tests.contract.test_races import empty, hurry
from tests.support import FACTS, NOON, POLICY, make_config

Write = Callable[[Session], Any]

SETTINGS = settings(
    max_examples=60,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,  # the same on every machine; raise max_examples to look for more
    database=None,
    suppress_health_check=[HealthCheck.too_slow],  # a step is a real transaction or two
)

OWNERS = st.sampled_from(["ann", "bob", "eve"])
WORKERS = st.sampled_from(["w1", "w2"])
LOST = st.sampled_from([False, False, True])
"""Whether the database commits, and its answer does not arrive."""
STEPS = st.none() | st.integers(1, 4)
PHASES = st.sampled_from(list(Phase))
JUMPS = st.sampled_from([-3600, -60, -1, 1, 15, 30, 119, 120, 134, 135, 136])
"""Seconds; among them the last moment of a lease and of its grace, and the first after."""

ENDS: Mapping[str, AttemptEnd] = {
    "completed": AttemptEnd(end=End.COMPLETED),
    "stopped": AttemptEnd(end=End.STOPPED),
    "drained": AttemptEnd(end=End.DRAINED),
    "failed": AttemptEnd(end=End.FAILED, failure=failure(FailureCode.CUDA_OUT_OF_MEMORY)),
    "crashed": AttemptEnd(end=End.FAILED, failure=failure(FailureCode.NCCL_ERROR)),
}
CODES = {"failed": "cuda_out_of_memory", "crashed": "nccl_error"}


class AnswerLost(OperationalError):
    """The transaction has been committed; the caller sees a connection that broke."""


@contextmanager
def transaction(database: Database, *, is_answered: bool) -> Iterator[Session]:
    with database.transaction() as session:
        yield session
    if not is_answered:
        raise AnswerLost("COMMIT", None, TimeoutError())


def insist(database: Database, write: Write, *, lose: bool) -> Any:
    """Again until there is an answer, as worker.finish and a client do."""
    try:
        with transaction(database, is_answered=not lose) as session:
            return write(session)
    except AnswerLost:
        return insist(database, write, lose=False)


def answer(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except (LeaseLost, Fenced):
        return "fenced"
    except (IllegalTransition, Refused):
        return "refused"


class Ids:
    """In place of `uuid`: the same ids in each replay, in no order."""

    def __init__(self) -> None:
        self._numbers = count()

    def uuid4(self) -> UUID:
        return uuid5(NAMESPACE_OID, str(next(self._numbers)))


class RunMachine(RuleBasedStateMachine):
    database: ClassVar[Database]
    patch: ClassVar[pytest.MonkeyPatch]
    runs: Bundle[str] = Bundle("runs")
    leases: Bundle[Lease] = Bundle("leases")
    """All that were ever given, whoever has forgotten them."""

    def __init__(self) -> None:
        super().__init__()
        empty(self.database)
        self.patch.setattr(lifecycle, "uuid", Ids())
        self.model = Model()
        self.now = self.latest = NOON
        self.tokens: set[str] = set()
        self.answers: list[Any] = []
        self.before: Mapping[str, Mapping[str, Any]] = {}

    def both(self, write: Write, meant: Callable[[], Any], *, lose: bool = False) -> None:
        """The database and the model are asked the same, twice if the answer is lost; they say
        the same."""
        said = answer(lambda: insist(self.database, write, lose=lose))
        for _ in range(1 + lose):
            expected = answer(meant)
        assert said == expected
        self.answers.append(said)

    # ---- users

    @rule(target=runs, owner=OWNERS, priority=st.integers(0, 1))
    def create(self, owner: str, priority: int) -> str:
        order = Order(name="n", owner=owner, priority=priority)
        with self.database.transaction() as session:
            run = lifecycle.create_run(session, CONFIG, order, dataset=FACTS, now=self.now)
        return self.model.create(run.id, self.now, owner=owner, priority=priority)

    @rule(target=runs, run=runs)
    def retry(self, run: str) -> MultipleResults[str]:
        made: list[str] = []

        def write(session: Session) -> str:
            made.append(lifecycle.retry_run(session, run, dataset=FACTS, now=self.now).id)
            return made[-1]

        self.both(write, lambda: self.model.retry(run, self.now, made[-1] if made else ""))
        return multiple(*made)

    @rule(run=runs, lose=LOST)
    def cancel(self, run: str, lose: bool) -> None:
        self.both(
            lambda session: lifecycle.request_cancel(session, run, now=self.now).status,
            lambda: self.model.cancel(run, self.now),
            lose=lose,
        )

    @rule(run=runs, lose=LOST)
    def pause(self, run: str, lose: bool) -> None:
        self.both(
            lambda session: lifecycle.request_pause(session, run, now=self.now).status,
            lambda: self.model.pause(run, self.now),
            lose=lose,
        )

    @rule(run=runs, lose=LOST)
    def resume(self, run: str, lose: bool) -> None:
        self.both(
            lambda session: lifecycle.resume_run(session, run, now=self.now).status,
            lambda: self.model.resume(run, self.now),
            lose=lose,
        )

    # ---- workers

    @rule(target=leases, worker=WORKERS, lose=LOST)
    def claim(self, worker: str, lose: bool) -> MultipleResults[Lease]:
        """With `lose`, a message that comes twice, or a lease that nobody hears of."""
        return multiple(*self._claim(worker, lose=lose))

    def _claim(self, worker: str, *, lose: bool = False) -> Sequence[Lease]:
        taken: list[Lease] = []

        def write(session: Session) -> Ref | None:
            lease = lifecycle.claim_next(session, worker=worker, now=self.now, ttl=TTL)
            if lease is None:
                return None
            taken.append(lease)
            return ref(lease)

        tokens = (lease.token for lease in taken)  # only the database knows them
        self.both(
            write, lambda: self.model.claim(self.now, worker, lambda: next(tokens)), lose=lose
        )
        assert self.tokens.isdisjoint(lease.token for lease in taken)
        self.tokens.update(lease.token for lease in taken)
        return taken

    @rule(lease=leases, step=STEPS, lose=LOST)
    def renew(self, lease: Lease, step: int | None, lose: bool) -> None:
        progress = {"step": step} if step else None
        self.both(
            lambda session: lifecycle.renew(
                session, lease, now=self.now, ttl=TTL, progress=progress, checkpoint_step=step
            ),
            lambda: self.model.renew(ref(lease), self.now, progress, step),
            lose=lose,
        )

    @rule(lease=leases, phase=PHASES, lose=LOST)
    def enter(self, lease: Lease, phase: Phase, lose: bool) -> None:
        self.both(
            lambda session: lifecycle.enter_phase(session, lease, phase, now=self.now),
            lambda: self.model.enter(ref(lease), self.now, phase.value),
            lose=lose,
        )

    @rule(lease=leases, step=STEPS, lose=LOST)
    def record_start(self, lease: Lease, step: int | None, lose: bool) -> None:
        self.both(
            lambda session: lifecycle.record_start(
                session, lease, yaml=f"step: {step}", resumed_from=step, now=self.now
            ),
            lambda: self.model.start(ref(lease), self.now, f"step: {step}", step),
            lose=lose,
        )

    @rule(lease=leases, end=st.sampled_from(list(ENDS)), lose=LOST)
    def finish(self, lease: Lease, end: str, lose: bool) -> None:
        """With `lose`, the second try learns that the run is not its own any more."""
        seen = "failed" if end == "crashed" else end
        self.both(
            lambda session: lifecycle.finish(
                session, lease, ENDS[end], now=self.now, policy=POLICY
            ),
            lambda: self.model.finish(
                ref(lease), self.now, seen, CODES.get(end), crash=end == "crashed"
            ),
            lose=lose,
        )

    # ---- whoever looks after them

    @rule(lose=LOST)
    def expire(self, lose: bool) -> None:
        self.both(
            lambda session: sorted(
                lifecycle.expire_leases(session, now=self.now, grace=GRACE, policy=POLICY)
            ),
            lambda: self.model.expire(self.now),
            lose=lose,
        )

    @rule(lease=leases, lose=LOST)
    def take_back(self, lease: Lease, lose: bool) -> None:
        self.both(
            lambda session: lifecycle.take_back(session, lease, now=self.now, policy=POLICY),
            lambda: self.model.take_back(ref(lease), self.now),
            lose=lose,
        )

    @rule(ago=st.sampled_from([0, 60]))
    def list_unoffered(self, ago: int) -> None:
        before = self.now - timedelta(seconds=ago)
        self.both(
            lambda session: list(lifecycle.unoffered(session, now=self.now, before=before)),
            lambda: self.model.unoffered(self.now, before),
        )

    @rule(runs=st.lists(runs, max_size=3), is_taken=st.booleans())
    def offer(self, runs: Sequence[str], is_taken: bool) -> None:
        """Whatever has become of the runs since they were listed."""
        at = self.now if is_taken else None

        def write(session: Session) -> None:
            if is_taken:
                lifecycle.mark_offered(session, runs, now=self.now)
            for run in () if is_taken else runs:
                lifecycle.mark_unoffered(session, run)

        self.both(write, lambda: self.model.offer(runs, at))

    @rule(seconds=JUMPS)
    def step_clock(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)
        self.latest = max(self.latest, self.now)

    # ---- what random steps would seldom find

    @rule(lease=leases, end=st.sampled_from(list(ENDS)))
    def try_every_write(self, lease: Lease, end: str) -> None:
        """A worker that does not know whether its lease still holds."""
        self._every_write(lease, end)

    @rule(lease=leases, other=leases)
    def forge(self, lease: Lease, other: Lease) -> None:
        """Two of a lease's three parts are not enough."""
        for forged in (
            Lease(other.run_id, lease.attempt, lease.token),
            Lease(lease.run_id, lease.attempt + 1, lease.token),
            Lease(lease.run_id, lease.attempt, "another"),
        ):
            if forged != lease:
                self.enter(forged, Phase.TRAINING, lose=False)
                assert self.answers[-1] == "fenced"
                self.take_back(forged, lose=False)

    @rule(target=leases, silence=st.sampled_from([135, 400]), end=st.sampled_from(list(ENDS)))
    def crash_and_takeover(self, silence: int, end: str) -> MultipleResults[Lease]:
        """A worker claims and is not heard of; another takes over; the first one comes back by a
        clock that says that no time has passed: only the lease itself tells it apart."""
        self.create("ann", 1)
        crashed = self._claim("w1")
        self.step_clock(silence)
        self.expire(lose=False)
        self.step_clock(30)  # the longest wait after a crash
        takeover = self._claim("w2")
        self.step_clock(-silence - 30)
        for lease in crashed:
            assert self._every_write(lease, end) == ["fenced"] * 4
        return multiple(*crashed, *takeover)

    def _every_write(self, lease: Lease, end: str) -> Sequence[Any]:
        self.renew(lease, 4, lose=False)
        self.enter(lease, Phase.PUBLISHING, lose=False)
        self.record_start(lease, 4, lose=False)
        self.stored_is_what_the_model_says()
        self.finish(lease, end, lose=False)
        return self.answers[-4:]

    # ---- what holds after every step

    @invariant()
    def stored_is_what_the_model_says(self) -> None:
        rows, tries = stored(self.database)
        assert rows == {run.id: run.row() for run in self.model.runs.values()}
        assert tries == {run.id: [vars(t) for t in run.tries] for run in self.model.runs.values()}
        assert told(self.database) == {run.id: run.told for run in self.model.runs.values()}
        self._follows_the_rules(rows, tries)
        self.before = rows

    def _follows_the_rules(
        self,
        rows: Mapping[str, Mapping[str, Any]],
        tries: Mapping[str, Sequence[Mapping[str, Any]]],
    ) -> None:
        for id, row in rows.items():
            alive = [t["number"] for t in tries[id] if t["ended_at"] is None]
            is_running = row["status"] == "running"
            assert alive == ([row["attempt"]] if is_running else [])
            assert [t["number"] for t in tries[id]] == list(range(1, row["attempt"] + 1))
            assert [t["end"] for t in tries[id]].count("completed") == (
                row["status"] == "succeeded"
            )
            leased = {row[name] is not None for name in LEASE}
            assert leased == {is_running}
            assert row["crashes"] <= POLICY.max_crashes
            assert row["not_before"] <= self.latest + timedelta(seconds=POLICY.backoff)
            self._came_here_lawfully(self.before.get(id), row)

    def _came_here_lawfully(
        self, before: Mapping[str, Any] | None, row: Mapping[str, Any]
    ) -> None:
        if before is None:
            return
        assert row == before or before["finished_at"] is None
        assert row["attempt"] >= before["attempt"]
        assert (row["checkpoint_step"] or 0) >= (before["checkpoint_step"] or 0)

    def teardown(self) -> None:
        """Whatever has happened: every run that waits is still to be had, once, and can end."""
        self.now = self.latest
        self.step_clock(2 * 3600)
        self.expire(lose=False)
        self.step_clock(3600)
        while leases := self._claim("w1"):
            self.finish(leases[0], "completed", lose=False)
            assert self.answers[-1] == "succeeded"
        statuses = {run.status for run in self.model.runs.values()}
        assert statuses <= {"succeeded", "failed", "cancelled", "paused"}
        self.stored_is_what_the_model_says()


LEASE = ("lease_owner", "lease_token", "lease_expires_at")
CONFIG = make_config()


def ref(lease: Lease) -> Ref:
    return lease.run_id, lease.attempt, lease.token


def stored(
    database: Database,
) -> tuple[Mapping[str, Mapping[str, Any]], Mapping[str, Sequence[Mapping[str, Any]]]]:
    """The columns that the model knows, of all runs and of their attempts."""
    with database.reading() as session:
        runs = session.execute(select(*COLUMNS)).mappings().all()
        tries = session.execute(select(*TRY_COLUMNS).order_by(RunAttempt.number)).mappings().all()
    return {row["id"]: dict(row) for row in runs}, {
        row["id"]: [without_run(t) for t in tries if t["run_id"] == row["id"]] for row in runs
    }


def told(database: Database) -> Mapping[str, Sequence[str]]:
    """The types of each run's events, the oldest first."""
    found: dict[str, list[str]] = defaultdict(list)
    with database.reading() as session:
        for run_id, type in session.execute(select(Event.run_id, Event.type).order_by(Event.id)):
            found[run_id].append(type)
    return found


def without_run(row: Mapping[Any, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in row.items() if name != "run_id"}


UNKNOWN = {
    *("name", "variant", "base_model", "config", "config_sha256", "dataset_rows"),
    *("dataset_sha256", "validation_sha256", "time_limit_seconds", "error_hint", "error_log"),
    *("gpus", "metadata", "kind"),
}
"""What the protocol does not decide by."""
COLUMNS = [column for column in Run.__table__.columns if column.name not in UNKNOWN]
TRY_COLUMNS = list(RunAttempt.__table__.columns)


def test_whatever_happens_the_database_does_what_the_model_says(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Here(RunMachine):
        pass

    Here.database, Here.patch = database, monkeypatch
    hurry(database)
    run_state_machine_as_test(Here, settings=SETTINGS)
