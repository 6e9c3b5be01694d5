"""Oracle against database and disk, once all has stopped: what was lost, done twice, torn."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path

from sqlalchemy import func, select

from finlora_core.access.owners import DEFAULT_OWNER
from finlora_core.adapters.manifest import File, sha256_of
from finlora_core.adapters.store import AdapterStore
from finlora_core.db.models import Adapter, Run, RunAttempt
from finlora_core.db.session import Database
from finlora_core.runs.outcome import End
from finlora_core.runs.status import RunStatus
from tests.chaos.clients import Ledger
from tests.chaos.faults import Interruption
from tests.chaos.oracle import History
from tests.chaos.traits import Plan, traits_of


@dataclass(frozen=True)
class Ended:
    """What the service says of a run."""

    id: str
    number: int
    """The run's own seed: one a request, however often that was sent."""
    status: RunStatus
    error_code: str | None
    finished_at: datetime | None


@dataclass(frozen=True)
class Listed:
    """An adapter's row."""

    id: str
    run_id: str
    variant: str
    name: str
    version: int
    files: Sequence[File]


@dataclass(frozen=True)
class Truth:
    """What the database holds in the end."""

    runs: Mapping[str, Ended]
    adapters: Sequence[Listed]
    completed_attempts: Mapping[str, int]
    open_attempts: Sequence[str]
    """Attempts without an end, of runs that have one."""


def read_truth(database: Database) -> Truth:
    with database.reading() as session:
        runs = session.scalars(select(Run)).all()
        adapters = session.scalars(select(Adapter)).all()
        completed = session.execute(
            select(RunAttempt.run_id, func.count())
            .where(RunAttempt.end == End.COMPLETED)
            .group_by(RunAttempt.run_id)
        ).all()
        left_open = session.execute(
            select(RunAttempt.run_id, RunAttempt.number)
            .join(Run, Run.id == RunAttempt.run_id)
            .where(RunAttempt.ended_at.is_(None), Run.finished_at.is_not(None))
        ).all()
    return Truth(
        runs={run.id: _ended(run) for run in runs},
        adapters=[_listed(adapter) for adapter in adapters],
        completed_attempts={run_id: count for run_id, count in completed},
        open_attempts=[f"{run_id}: attempt {number}" for run_id, number in left_open],
    )


@dataclass
class Verdict:
    """Every list is of what must not be; each entry names a run, a file or a process."""

    lost: list[str] = field(default_factory=list)
    finished_twice: list[str] = field(default_factory=list)
    trained_after_end: list[str] = field(default_factory=list)
    """A status that says it is over must not be written while a process still trains."""
    open_attempts: list[str] = field(default_factory=list)
    overlaps: list[str] = field(default_factory=list)
    orphan_processes: list[str] = field(default_factory=list)
    torn_adapters: list[str] = field(default_factory=list)
    wrong_results: list[str] = field(default_factory=list)
    bad_checkpoints: list[str] = field(default_factory=list)
    surprises: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        return not any(asdict(self).values())


def judge(
    truth: Truth,
    histories: Mapping[str, History],
    ledger: Ledger,
    store: AdapterStore,
    orphans: Sequence[str],
) -> Verdict:
    logs = histories.values()
    return Verdict(
        lost=list(_lost(truth, ledger)),
        finished_twice=list(_finished_twice(truth)),
        trained_after_end=list(_trained_after_end(truth, histories)),
        open_attempts=list(truth.open_attempts),
        overlaps=[f"{log.run_id}: {event}" for log in logs for event in log.of_kind("overlap")],
        orphan_processes=list(orphans),
        torn_adapters=list(_torn(truth.adapters, store)),
        wrong_results=[log.run_id for log in logs if log.wrong_result()],
        bad_checkpoints=[
            f"{log.run_id}: {event}" for log in logs for event in log.of_kind("bad_checkpoint")
        ],
        surprises=list(ledger.surprises),
    )


def _lost(truth: Truth, ledger: Ledger) -> Iterable[str]:
    for run_id in sorted(ledger.accepted):
        run = truth.runs.get(run_id)
        if run is None:
            yield f"{run_id}: accepted, but not in the database"
        elif not _came_to_a_good_end(run, ledger):
            yield f"{run_id}: {run.status} {run.error_code or ''}"


def _came_to_a_good_end(run: Ended, ledger: Ledger) -> bool:
    asked = run.status is RunStatus.CANCELLED and run.id in ledger.cancels
    return run.status is RunStatus.SUCCEEDED or asked


def _finished_twice(truth: Truth) -> Iterable[str]:
    adapters = Counter(adapter.run_id for adapter in truth.adapters)
    versions = Counter((listed.variant, listed.name, listed.version) for listed in truth.adapters)
    yield from (f"{run}: {count} adapters" for run, count in adapters.items() if count > 1)
    yield from (f"{key}: {count} times" for key, count in versions.items() if count > 1)
    for run_id, count in truth.completed_attempts.items():
        if count > 1:
            yield f"{run_id}: {count} completed attempts"
    for run in truth.runs.values():
        if run.status is RunStatus.SUCCEEDED and adapters[run.id] != 1:
            yield f"{run.id}: succeeded with {adapters[run.id]} adapters"


def _trained_after_end(truth: Truth, histories: Mapping[str, History]) -> Iterable[str]:
    for log in histories.values():
        run = truth.runs.get(log.run_id)
        if run is not None and run.finished_at is not None:
            for event in log.trained_after(run.finished_at.timestamp()):
                yield f"{run.id}: {run.status}, and then {event}"


def _torn(adapters: Sequence[Listed], store: AdapterStore) -> Iterable[str]:
    for adapter in adapters:
        for file in adapter.files:
            path = store.folder(adapter.id) / file.path
            if not path.is_file() or sha256_of(path) != file.sha256:
                yield f"{adapter.run_id}: {path}"


@dataclass(frozen=True)
class Recovery:
    """From a kill that hit a live training to the next step of that run."""

    hit: Interruption
    seconds: float

    def __str__(self) -> str:
        what = f"{self.hit.role} of {self.hit.run_id}, attempt {self.hit.attempt}"
        return f"{self.seconds:.2f} s: {what}, killed at {self.hit.at:.3f}"


def recoveries(
    interruptions: Sequence[Interruption], histories: Mapping[str, History]
) -> Sequence[Recovery]:
    """The fastest first. A run that was hit again before its next step counts for each hit;
    one that made no further step, being cancelled or as good as finished, for none."""
    found = []
    for hit in interruptions:
        log = histories.get(hit.run_id)
        step = log.next_step(after=hit.at, beyond=hit.attempt) if log else None
        if step is not None:
            found.append(Recovery(hit, step - hit.at))
    return sorted(found, key=lambda recovery: recovery.seconds)


def percentile(values: Sequence[float], share: float) -> float | None:
    """Of sorted values: the smallest that at least this share of them do not exceed."""
    if not values:
        return None
    return round(values[max(0, math.ceil(share * len(values)) - 1)], 2)


def lost_intervals(truth: Truth, histories: Mapping[str, History], plan: Plan) -> float:
    """The most training that one attempt repeated, in checkpoint intervals of its run."""
    intervals = [
        log.repeated_steps() / traits_of(plan, truth.runs[log.run_id].number).save_every
        for log in histories.values()
        if log.run_id in truth.runs
    ]
    return round(max(intervals, default=0), 1)


def duplicates(truth: Truth) -> int:
    """Runs made a second time by a request whose first answer had got lost."""
    requests = Counter(run.number for run in truth.runs.values())
    return sum(count - 1 for count in requests.values())


def stale_links(adapters: Sequence[Listed], store: AdapterStore) -> Sequence[str]:
    """Stable paths that do not show their newest version."""
    newest: dict[tuple[str, str], Listed] = {}
    for adapter in sorted(adapters, key=lambda adapter: adapter.version):
        newest[adapter.variant, adapter.name] = adapter
    return [
        str(store.stable_path(DEFAULT_OWNER, *key))
        for key, adapter in newest.items()
        if store.stable_path(DEFAULT_OWNER, *key).resolve() != store.folder(adapter.id).resolve()
    ]


def exceptions_in(logs: Iterable[Path]) -> Mapping[str, int]:
    """The last line of each traceback in the parts' logs, with how often it came."""
    found: Counter[str] = Counter()
    for log in logs:
        inside = False
        for line in log.read_text(errors="replace").splitlines():
            if line.startswith("Traceback "):
                inside = True
            elif inside and line and not line[0].isspace():
                found[f"{log.stem.split('-')[0]}: {line[:160]}"] += 1
                inside = False
    return dict(found.most_common())


def _ended(run: Run) -> Ended:
    return Ended(run.id, run.config["seed"], run.status, run.error_code, run.finished_at)


def _listed(adapter: Adapter) -> Listed:
    files = [File.model_validate(file) for file in adapter.files]
    return Listed(
        adapter.id, adapter.run_id or "", adapter.variant, adapter.name, adapter.version, files
    )
