"""From a claimed run to its end, whatever the trainer does."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from finlora_core.adapters import registry
from finlora_core.adapters.store import AdapterStore
from finlora_core.datasets.files import DatasetFiles
from finlora_core.datasets.intake import take
from finlora_core.db.models import Adapter, Run
from finlora_core.db.session import Database, now
from finlora_core.errors import NotFound
from finlora_core.runs import journal, lifecycle
from finlora_core.runs.lifecycle import Order
from finlora_core.runs.status import RunStatus
from finlora_core.settings import Settings
from finlora_core.training.files import AttemptFiles
from tests.support import POLICY, eventually, make_config
from tests.worker.conftest import GOOD, BenchWith
from worker.attempt import claim, run_attempt, work_until_idle
from worker.bench import Bench

Seen = Callable[[], Run]

FOREVER = "progress(step=1, max_steps=9, percent=11.1)\ntime.sleep(60)"
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + FOREVER


def adapter_of(database: Database, run_id: str) -> Adapter | None:
    with database.reading() as session:
        try:
            return registry.get_any_adapter(session, registry.adapter_id(run_id, 1))
        except NotFound:
            return None


class _Unreliable(Database):
    """A database that goes away on demand."""

    away = False
    refusals = 0
    """Transactions that fail before they have done anything."""
    lost_answers = 0
    """Transactions that are committed and then fail."""

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        if self.away or self.refusals > 0:
            self.refusals -= 1
            raise OperationalError("BEGIN", {}, Exception("away"))
        with super().transaction() as session:
            yield session
        if self.lost_answers > 0:
            self.lost_answers -= 1
            raise OperationalError("COMMIT", {}, Exception("the answer was lost"))


class _BreakingStore(AdapterStore):
    """Does something to the database once the files have appeared."""

    def __init__(self, settings: Settings, then: Callable[[], None]) -> None:
        super().__init__(settings.adapters)
        self._then = then

    def publish(self, adapter_id: str, staged: Path) -> Path:
        folder = super().publish(adapter_id, staged)
        self._then()
        return folder


def published_folders(settings: Settings) -> list[Path]:
    return [
        path
        for place in (".store", ".staging")
        if (settings.adapters / place).is_dir()
        for path in (settings.adapters / place).iterdir()
    ]


def test_a_trained_run_becomes_an_adapter_at_its_stable_path(
    bench_with: BenchWith, run_id: str, seen: Seen, sqlite: Database, settings: Settings
) -> None:
    work_until_idle(bench_with(GOOD))
    run, adapter = seen(), adapter_of(sqlite, run_id)
    assert (run.status, run.phase, run.lease_token) == (RunStatus.SUCCEEDED, None, None)
    assert adapter is not None
    stable = settings.adapters / "fp16_r8" / "sentiment"
    names = {path.name for path in stable.iterdir()}
    assert names == {file["path"] for file in adapter.files}
    assert {"manifest.json", "README.md", "adapter_model.safetensors"} <= names
    assert "optimizer.pt" not in names
    assert (
        '"base_model_name_or_path": "finlora/tiny-llama"'
        in (stable / "adapter_config.json").read_text()
    )


def test_metrics_progress_yaml_and_log_reach_the_database(
    bench_with: BenchWith, run_id: str, seen: Seen, sqlite: Database
) -> None:
    work_until_idle(bench_with(GOOD))
    run = seen()
    assert run.progress is not None
    assert (run.progress["step"], run.progress["percent"]) == (1, 100.0)
    assert run.axolotl_yaml is not None
    assert "micro_batch_size: 2" in run.axolotl_yaml
    with sqlite.reading() as session:
        assert [p.values for p in journal.read_metrics(session, run_id, after=0, limit=9)] == [
            {"loss": 0.5}
        ]
        text, _ = journal.read_log(session, run_id, offset=0, limit=1000)
    assert text.startswith("training with ")


def test_the_attempts_folder_keeps_only_what_people_read(
    bench_with: BenchWith, run_id: str, settings: Settings
) -> None:
    work_until_idle(bench_with(GOOD))
    kept = {path.name for path in AttemptFiles.of(settings.runs, run_id, 1).root.iterdir()}
    assert kept == {
        "axolotl.yaml",
        "completed.json",
        "metrics.jsonl",
        "progress.json",
        "train.log",
    }


BAD_ENDS = [
    pytest.param("pass", "training_error", id="exit 0 without the marker"),
    pytest.param("complete()", "invalid_adapter", id="marker without an adapter"),
    pytest.param(
        "from tests.lora import write_adapter; write_adapter(output, fill=0.0); complete()",
        "invalid_adapter",
        id="an adapter that changes nothing",
    ),
    pytest.param(
        "from tests.lora import write_adapter; write_adapter(output); complete(); sys.exit(1)",
        "training_error",
        id="marker but exit 1",
    ),
    pytest.param(
        "print('torch.OutOfMemoryError: CUDA out of memory.'); sys.exit(1)",
        "cuda_out_of_memory",
        id="CUDA out of memory",
    ),
    pytest.param(
        "print('OSError: [Errno 12] Cannot allocate memory'); sys.exit(1)",
        "host_out_of_memory",
        id="out of memory",
    ),
    pytest.param(
        "print('OSError: [Errno 28] No space left on device'); sys.exit(1)",
        "disk_full",
        id="disk full",
    ),
    pytest.param(
        "fail(code='quantization_not_applied', detail='0 layers'); sys.exit(1)",
        "quantization_not_applied",
        id="refused by the plugin",
    ),
]


@pytest.mark.parametrize(("trainer", "code"), BAD_ENDS)
def test_a_training_that_fails_says_why_and_publishes_nothing(
    bench_with: BenchWith,
    run_id: str,
    seen: Seen,
    sqlite: Database,
    settings: Settings,
    trainer: str,
    code: str,
) -> None:
    work_until_idle(bench_with(trainer))
    run = seen()
    assert (run.status, run.error_code) == (RunStatus.FAILED, code)
    assert run.error_hint
    assert "training with" in (run.error_log or "") or code == "invalid_adapter"
    assert adapter_of(sqlite, run_id) is None
    assert published_folders(settings) == []


def test_a_base_model_that_is_nowhere_fails_the_run(
    bench_with: BenchWith, run_id: str, seen: Seen, model: Path, tmp_path: Path
) -> None:
    bench = bench_with(GOOD)
    model.rename(tmp_path / "away")
    offline = bench.settings.model_copy(update={"hf_endpoint": "http://127.0.0.1:9"})
    work_until_idle(replace(bench, settings=offline))
    run = seen()
    assert (run.status, run.error_code) == (RunStatus.FAILED, "base_model_not_found")
    assert "finlora/tiny-llama" in (run.error_hint or "")


def test_a_dataset_that_was_changed_after_the_post_is_not_trained_on(
    bench_with: BenchWith, run_id: str, seen: Seen, settings: Settings
) -> None:
    with (settings.datasets[0] / "train.jsonl").open("a") as file:
        file.write('{"context": "new", "target": "row"}\n')
    work_until_idle(bench_with(GOOD))
    assert seen().error_code == "dataset_changed"


def test_a_dataset_that_is_gone_fails_the_run(
    bench_with: BenchWith, run_id: str, seen: Seen, settings: Settings
) -> None:
    (settings.datasets[0] / "train.jsonl").unlink()
    work_until_idle(bench_with(GOOD))
    assert seen().error_code == "dataset_unreadable"


@pytest.mark.parametrize(("owner", "status"), [("ann", "succeeded"), ("bob", "failed")])
def test_an_uploaded_dataset_is_trained_on_for_its_owner_only(
    bench_with: BenchWith,
    model: Path,
    sqlite: Database,
    settings: Settings,
    owner: str,
    status: str,
) -> None:
    files = DatasetFiles(settings.uploads)
    with files.receive("ann", limit=1000) as incoming:
        incoming.write(b'{"context": "a", "target": "b"}\n' * 2)
        received = take(incoming, "train.jsonl", None)
    config = make_config(dataset_path=received.id)
    with sqlite.transaction() as session:
        order = Order(name="sentiment", owner=owner)
        run = lifecycle.create_run(
            session, config, order, dataset=received.facts, now=now(session)
        )
    work_until_idle(bench_with(GOOD))
    with sqlite.reading() as session:
        run = session.get_one(Run, run.id)
    assert run.status == status
    if status == "succeeded":
        assert f"path: {files.path('ann', received.id)}" in (run.axolotl_yaml or "")
    else:
        assert run.error_code == "dataset_unreadable"


def test_too_little_disk_is_found_before_training(
    bench_with: BenchWith, run_id: str, seen: Seen
) -> None:
    bench = bench_with(GOOD)
    greedy = bench.settings.model_copy(update={"min_free_disk_mib": 10**9})
    work_until_idle(replace(bench, settings=greedy))
    assert seen().error_code == "insufficient_disk"


def start(bench: Bench, seen: Seen) -> threading.Thread:
    """A worker on a thread, its trainer at the first step."""
    thread = threading.Thread(target=work_until_idle, args=[bench])
    thread.start()
    assert eventually(lambda: seen().progress is not None)
    return thread


@pytest.mark.parametrize("trainer", [FOREVER, STUBBORN], ids=["polite", "ignores TERM"])
def test_a_running_run_is_cancelled_within_seconds(
    bench_with: BenchWith, run_id: str, seen: Seen, sqlite: Database, trainer: str
) -> None:
    thread = start(bench_with(trainer), seen)
    with sqlite.transaction() as session:
        lifecycle.request_cancel(session, run_id, now=now(session))
    assert eventually(lambda: seen().status is RunStatus.CANCELLED)
    thread.join(10)
    assert not thread.is_alive()


def test_a_worker_that_shuts_down_gives_its_run_back(
    bench_with: BenchWith, run_id: str, seen: Seen
) -> None:
    bench = bench_with(FOREVER)
    thread = start(bench, seen)
    bench.draining.set()
    thread.join(10)
    run = seen()
    assert (run.status, run.crashes, run.attempt) == (RunStatus.QUEUED, 0, 1)


def test_a_worker_that_lost_its_lease_stops_and_publishes_nothing(
    bench_with: BenchWith, run_id: str, seen: Seen, sqlite: Database, settings: Settings
) -> None:
    thread = start(bench_with(FOREVER), seen)
    with sqlite.transaction() as session:
        session.execute(update(Run).values(lease_token="another", attempt=2))
    thread.join(10)
    assert not thread.is_alive()
    run = seen()
    assert (run.status, run.attempt, run.lease_token) == (RunStatus.RUNNING, 2, "another")
    assert published_folders(settings) == []


def test_a_worker_that_loses_its_lease_while_publishing_leaves_no_files(
    bench_with: BenchWith, run_id: str, seen: Seen, sqlite: Database, settings: Settings
) -> None:
    bench = bench_with(GOOD)
    lease = claim(bench)
    assert lease is not None

    def somebody_takes_over() -> None:
        with sqlite.transaction() as session:
            session.execute(update(Run).values(lease_token="another", attempt=2))

    run_attempt(replace(bench, store=_BreakingStore(settings, somebody_takes_over)), lease)
    assert seen().lease_token == "another"
    assert adapter_of(sqlite, run_id) is None
    assert published_folders(settings) == []


def test_a_run_taken_over_is_trained_in_a_folder_of_its_own(
    bench_with: BenchWith, run_id: str, seen: Seen, sqlite: Database, settings: Settings
) -> None:
    bench = bench_with(GOOD)
    assert claim(bench) is not None  # a first worker that is never heard of again
    with sqlite.transaction() as session:
        [(_, lost)] = lifecycle.held_leases(session)
        lifecycle.take_back(session, lost, now=now(session), policy=POLICY)
    work_until_idle(bench)
    assert (seen().status, seen().attempt) == (RunStatus.SUCCEEDED, 2)
    assert AttemptFiles.of(settings.runs, run_id, 2).completed.is_file()


def test_a_secret_in_the_trainers_output_does_not_reach_the_database(
    bench_with: BenchWith, run_id: str, seen: Seen, sqlite: Database
) -> None:
    token = "hf_" + "a" * 30
    work_until_idle(bench_with(f"print('using {token}', flush=True); sys.exit(1)"))
    with sqlite.reading() as session:
        text, _ = journal.read_log(session, run_id, offset=0, limit=10_000)
    assert "using [redacted]" in text
    assert token not in text + (seen().error_log or "")


def test_the_trainer_sees_no_setting_of_the_service(
    bench_with: BenchWith, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINLORA_DATABASE_URL", "postgresql://user:pw@db/finlora")
    monkeypatch.setenv("HF_TOKEN", "hf_" + "b" * 30)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    work_until_idle(bench_with("print(sorted(os.environ)); sys.exit(1)"))
    log = seen().error_log or ""
    assert "'HF_HUB_OFFLINE'" in log
    for name in ("FINLORA_DATABASE_URL", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        assert name not in log


def test_nonsense_from_the_trainer_costs_only_the_nonsense(
    bench_with: BenchWith, run_id: str, seen: Seen, sqlite: Database
) -> None:
    nonsense = """
    metric(loss=1.0)
    metric(step="one", loss=1.0)
    metric(step=2, loss=float("nan"), note="x")
    metric(step=3, loss=0.25, bad=float("inf"))
    metric(step=4, loss=10**400)
    progress(step="x")
    """
    work_until_idle(bench_with(nonsense.replace("    ", "") + GOOD))
    assert seen().status is RunStatus.SUCCEEDED
    with sqlite.reading() as session:
        points = journal.read_metrics(session, run_id, after=0, limit=9)
    assert [(point.step, point.values) for point in points] == [
        (3, {"loss": 0.25}),
        (1, {"loss": 0.5}),
    ]


def test_a_folder_that_cannot_be_made_fails_the_run_at_once(
    bench_with: BenchWith, run_id: str, seen: Seen, settings: Settings
) -> None:
    bench = bench_with(GOOD)
    (settings.runs / run_id).write_text("in the way")
    work_until_idle(bench)
    run = seen()
    assert (run.status, run.error_code) == (RunStatus.FAILED, "worker_error")
    assert "NotADirectoryError" in (run.error_hint or "")


def test_the_end_of_a_long_log_is_kept(
    bench_with: BenchWith, run_id: str, sqlite: Database
) -> None:
    chatty = "sys.stdout.write(('y' * 99 + '\\n') * 9000)"
    work_until_idle(bench_with(chatty + "\nsys.stdout.write('THE REASON')\nsys.exit(1)"))
    with sqlite.reading() as session:
        text, end = journal.read_log(session, run_id, offset=0, limit=10_000_000)
    assert end > 900_000
    assert text.endswith("THE REASON")


def test_a_worker_that_cannot_reach_the_database_stops_its_training(
    bench_with: BenchWith, run_id: str, seen: Seen, sqlite: Database
) -> None:
    database = _Unreliable(sqlite.engine)
    bench = bench_with(FOREVER)
    hasty = bench.settings.model_copy(update={"fence_seconds": 0.5})
    bench = replace(bench, database=database, settings=hasty)
    thread = threading.Thread(target=run_attempt, args=[bench, claim(bench)])
    thread.start()
    assert eventually(lambda: seen().progress is not None)
    database.away = True
    thread.join(20)
    assert not thread.is_alive()
    assert seen().status is RunStatus.RUNNING  # the lease decides, once it is over


def test_an_outage_between_two_phases_is_not_worth_a_training(
    bench_with: BenchWith, run_id: str, seen: Seen, sqlite: Database
) -> None:
    database = _Unreliable(sqlite.engine)
    bench = bench_with(GOOD)

    def go_away_and_train(files: AttemptFiles, processes: int) -> Sequence[str]:
        database.refusals = 1  # of the word that publishing has begun
        return bench.train_command(files, processes)

    quiet = bench.settings.model_copy(update={"heartbeat_seconds": 15})
    away = replace(bench, database=database, settings=quiet, train_command=go_away_and_train)
    work_until_idle(away)
    assert database.refusals == 0
    assert (seen().status, seen().attempt) == (RunStatus.SUCCEEDED, 1)


def test_a_short_outage_at_the_end_costs_nothing(
    bench_with: BenchWith, run_id: str, seen: Seen, sqlite: Database, settings: Settings
) -> None:
    database = _Unreliable(sqlite.engine)

    def go_away() -> None:
        database.refusals = 3

    store = _BreakingStore(settings, go_away)
    work_until_idle(replace(bench_with(GOOD), database=database, store=store))
    assert (seen().status, seen().attempt) == (RunStatus.SUCCEEDED, 1)


def test_a_commit_whose_answer_is_lost_keeps_the_adapter_and_links_it(
    bench_with: BenchWith, run_id: str, seen: Seen, sqlite: Database, settings: Settings
) -> None:
    database = _Unreliable(sqlite.engine)
    bench = bench_with(GOOD)
    quiet = bench.settings.model_copy(update={"heartbeat_seconds": 15})

    def lose_answers() -> None:
        database.lost_answers = 2  # of the last heartbeat, and of finishing

    store = _BreakingStore(settings, lose_answers)
    work_until_idle(replace(bench, database=database, store=store, settings=quiet))
    assert seen().status is RunStatus.SUCCEEDED
    assert (settings.adapters / "fp16_r8" / "sentiment" / "adapter_model.safetensors").is_file()


def test_a_folder_in_the_place_of_the_stable_path_costs_only_the_link(
    bench_with: BenchWith, run_id: str, seen: Seen, sqlite: Database, settings: Settings
) -> None:
    theirs = settings.adapters / "fp16_r8" / "sentiment" / "adapter_model.safetensors"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("a user's own")
    work_until_idle(bench_with(GOOD))
    assert seen().status is RunStatus.SUCCEEDED
    assert adapter_of(sqlite, run_id) is not None
    assert theirs.read_text() == "a user's own"
    assert [path.name for path in theirs.parent.parent.iterdir()] == ["sentiment"]
