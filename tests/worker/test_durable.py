"""What an attempt leaves for the next one, and what makes a training stop."""

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from finlora_core.db.models import Run, RunAttempt, Worker
from finlora_core.db.session import Database, now
from finlora_core.errors import InvalidSettings
from finlora_core.runs import lifecycle, queries
from finlora_core.runs.outcome import End
from finlora_core.runs.status import RunStatus
from finlora_core.settings import Settings
from finlora_core.training.files import ATTEMPT_DIR, RunFiles
from tests.finlora_core.test_checkpoints import LINEAGE, saved, steps
from tests.support import FACTS, POLICY, eventually
from tests.worker.conftest import BenchWith
from worker import survivors
from worker.attempt import claim, run_attempt, work_until_idle
from worker.bench import Bench
from worker.heartbeat import Heartbeat
from worker.host import ProcessId
from worker.locks import hold
from worker.process import GuardedProcess
from worker.reap import reap
from worker.supervise import Keeper

Seen = Callable[[], Run]


class FakeHeartbeat(Heartbeat):
    """Neither beats nor knows a database."""

    is_lost = False

    def __init__(self, is_lost: bool) -> None:
        self.is_lost = is_lost


SLOW = "train(200, pace=0.03)"


def with_settings(bench: Bench, **changes: object) -> Bench:
    return replace(bench, settings=bench.settings.model_copy(update=changes))


def start(bench: Bench, seen: Seen, *, at_step: int = 4) -> threading.Thread:
    """A worker on a thread, its trainer at a step."""
    thread = threading.Thread(target=work_until_idle, args=[bench])
    thread.start()
    assert eventually(lambda: (seen().progress or {}).get("step", 0) >= at_step)
    return thread


def history(settings: Settings, run_id: str) -> list[str]:
    """What the trainers noted: where each started, and each step."""
    return (settings.runs / run_id / "history.txt").read_text().split("\n")[:-1]


def starts(settings: Settings, run_id: str) -> list[int]:
    lines = history(settings, run_id)
    return [int(line.removeprefix("from ")) for line in lines if line.startswith("from ")]


def last_step(settings: Settings, run_id: str) -> int:
    return int(history(settings, run_id)[-1])


def attempts(database: Database, run_id: str) -> list[RunAttempt]:
    with database.reading() as session:
        return list(queries.list_attempts(session, run_id))


def test_a_paused_run_goes_on_at_the_step_where_it_was_paused(
    bench_with: BenchWith, run_id: str, seen: Seen, sqlite: Database, settings: Settings
) -> None:
    bench = bench_with("train(40, pace=0.03)")
    thread = start(bench, seen)
    with sqlite.transaction() as session:
        lifecycle.request_pause(session, run_id, now=now(session))
    thread.join(20)
    run, paused_at = seen(), last_step(settings, run_id)
    assert (run.status, run.checkpoint_step, run.crashes) == (RunStatus.PAUSED, paused_at, 0)
    assert survivors.find(settings.runs) == []
    with sqlite.transaction() as session:
        lifecycle.resume_run(session, run_id, now=now(session))
    work_until_idle(bench)
    assert seen().status is RunStatus.SUCCEEDED
    assert starts(settings, run_id) == [0, paused_at]
    steps = [int(line) for line in history(settings, run_id) if line.isdigit()]
    assert steps == list(range(1, 41))
    assert [(a.end, a.resumed_from) for a in attempts(sqlite, run_id)] == [
        (End.STOPPED, None),
        (End.COMPLETED, paused_at),
    ]


def test_a_worker_that_shuts_down_saves_a_checkpoint_first(
    bench_with: BenchWith, run_id: str, seen: Seen, settings: Settings
) -> None:
    bench = bench_with(SLOW)
    thread = start(bench, seen)
    bench.draining.set()
    thread.join(20)
    run = seen()
    assert (run.status, run.crashes) == (RunStatus.QUEUED, 0)
    assert run.checkpoint_step == last_step(settings, run_id)


def test_a_training_that_does_not_stop_in_time_goes_back_to_the_checkpoint_before(
    bench_with: BenchWith, run_id: str, seen: Seen
) -> None:
    deaf = """
    for step in range(1, 5):
        progress(step=step, max_steps=9, percent=step)
        checkpoint(step)
    time.sleep(60)
    """
    bench = with_settings(bench_with(deaf), drain_seconds=0.5)
    thread = start(bench, seen)
    bench.draining.set()
    thread.join(20)
    run = seen()
    assert (run.status, run.crashes, run.checkpoint_step) == (RunStatus.QUEUED, 0, 4)


def test_a_training_that_has_made_no_step_is_not_waited_for(
    bench_with: BenchWith, run_id: str, seen: Seen
) -> None:
    bench = bench_with("time.sleep(60)")
    thread = threading.Thread(target=work_until_idle, args=[bench])
    thread.start()
    assert eventually(lambda: seen().phase == "training")
    bench.draining.set()
    thread.join(20)
    assert not thread.is_alive()
    assert seen().status is RunStatus.QUEUED


def test_a_killed_trainer_costs_the_steps_since_its_last_checkpoint(
    bench_with: BenchWith, run_id: str, seen: Seen, sqlite: Database, settings: Settings
) -> None:
    fragile = """
    if resumed() == 0:
        threading = __import__("threading")
        threading.Timer(0.4, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    train(30, pace=0.03)
    """
    work_until_idle(bench_with(fragile))
    assert seen().status is RunStatus.SUCCEEDED
    first, second = starts(settings, run_id)
    lines = history(settings, run_id)
    killed_at = int(lines[lines.index(f"from {second}") - 1])
    assert (first, second % 3) == (0, 0)
    assert 0 <= killed_at - second < 3 + 3  # an interval, and the look at it
    assert [a.error_code for a in attempts(sqlite, run_id)] == ["trainer_killed", None]


def test_a_training_that_was_ended_while_its_worker_slept_is_tried_again(
    bench_with: BenchWith,
    run_id: str,
    seen: Seen,
    sqlite: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A machine that was suspended: the guard was first to notice, and the lease still holds."""
    beat = GuardedProcess.beat
    sleeps = ["attempt-1"]
    monkeypatch.setattr(
        GuardedProcess,
        "beat",
        lambda self: None if self.folder.name in sleeps else beat(self),
    )
    work_until_idle(with_settings(bench_with("train(99, pace=0.03)"), fence_seconds=2.0))
    assert seen().status is RunStatus.SUCCEEDED
    assert [a.error_code for a in attempts(sqlite, run_id)] == ["worker_lost", None]


def test_a_trainer_that_is_stopped_together_with_its_worker_costs_no_try(
    bench_with: BenchWith, run_id: str, seen: Seen, sqlite: Database
) -> None:
    """As when a host shuts down: TERM for every process."""
    bench = bench_with("""
    progress(step=1, max_steps=9, percent=11)
    while not (root / "stop_requested").exists():
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGTERM)
    """)
    worker = start(bench, seen, at_step=1)
    bench.draining.set()
    worker.join()
    assert (seen().status, seen().crashes) == (RunStatus.QUEUED, 0)
    assert [a.end for a in attempts(sqlite, run_id)] == [End.DRAINED]


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(
    bench_with: BenchWith, run_id: str, seen: Seen, settings: Settings
) -> None:
    bench = bench_with("train(12) if resumed() else (checkpoint(3), checkpoint(6), time.sleep(1))")
    run_attempt_to_its_loss(bench)
    files = RunFiles.of(settings.runs, run_id)
    newest = files.checkpoints / "attempt-1" / "checkpoint-6" / "optimizer.pt"
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    work_until_idle(bench)
    assert seen().status is RunStatus.SUCCEEDED
    assert starts(settings, run_id) == [3]


def run_attempt_to_its_loss(bench: Bench) -> None:
    """An attempt that leaves checkpoints and is then given back."""
    thread = threading.Thread(target=work_until_idle, args=[bench])
    thread.start()
    assert eventually(lambda: len(list(bench.settings.runs.glob("*/checkpoints/*/*"))) == 2)
    bench.draining.set()
    thread.join(20)
    bench.draining.clear()


def test_a_checkpoint_that_does_not_load_is_set_aside_and_the_one_before_is_tried(
    bench_with: BenchWith, run_id: str, seen: Seen, sqlite: Database, settings: Settings
) -> None:
    picky = """
    if resumed() == 6:
        progress(step=6, max_steps=12, percent=50)
        sys.exit("optimizer.pt: these are not the shapes of this model")
    train(12) if resumed() else (checkpoint(3), checkpoint(6), time.sleep(60))
    """
    bench = bench_with(picky)
    run_attempt_to_its_loss(bench)
    work_until_idle(bench)
    assert (seen().status, seen().attempt) == (RunStatus.SUCCEEDED, 2)
    assert starts(settings, run_id) == [3]
    assert attempts(sqlite, run_id)[1].resumed_from == 3


def test_when_no_checkpoint_loads_the_training_begins_again(
    bench_with: BenchWith, run_id: str, seen: Seen, settings: Settings
) -> None:
    picky = """
    if resumed():
        progress(step=resumed(), max_steps=12, percent=50)
        sys.exit("does not load")
    checkpoint(3), checkpoint(6)
    if len(list(root.parent.glob("attempt-*"))) == 1:
        time.sleep(60)
    save_adapter()
    complete()
    """
    bench = bench_with(picky)
    run_attempt_to_its_loss(bench)
    work_until_idle(bench)
    assert seen().status is RunStatus.SUCCEEDED


def test_the_checkpoints_of_a_succeeded_run_are_removed(
    bench_with: BenchWith, run_id: str, seen: Seen, settings: Settings
) -> None:
    work_until_idle(bench_with("train(7)"))
    assert seen().status is RunStatus.SUCCEEDED
    assert not RunFiles.of(settings.runs, run_id).checkpoints.exists()


def test_a_retry_goes_on_from_the_checkpoints_of_the_run_before(
    bench_with: BenchWith, run_id: str, seen: Seen, sqlite: Database, settings: Settings
) -> None:
    failing = """
    if resumed() == 0:
        for step in (1, 2, 3):
            progress(step=step, max_steps=9, percent=step)
        checkpoint(3)
        time.sleep(0.5)
        sys.exit("RuntimeError: something in step 4")
    train(9)
    """
    bench = bench_with(failing)
    work_until_idle(bench)
    failed = seen()
    assert failed.status is RunStatus.FAILED
    with sqlite.transaction() as session:
        facts = replace(FACTS, sha256=failed.dataset_sha256, rows=failed.dataset_rows)
        again = lifecycle.retry_run(session, run_id, dataset=facts, now=now(session)).id
    work_until_idle(bench)
    with sqlite.reading() as session:
        assert queries.get_any_run(session, again).status is RunStatus.SUCCEEDED
    assert starts(settings, again) == [3]


def test_a_training_without_steps_is_stopped_and_tried_again(
    bench_with: BenchWith, run_id: str, seen: Seen, sqlite: Database
) -> None:
    stuck = """
    if len(list(root.parent.glob("attempt-*"))) == 1:
        progress(step=1, max_steps=9, percent=1)
        time.sleep(60)
    train(3)
    """
    work_until_idle(with_settings(bench_with(stuck), stall_seconds=1.0))
    assert seen().status is RunStatus.SUCCEEDED
    assert [a.error_code for a in attempts(sqlite, run_id)] == ["stalled", None]


def test_a_training_that_answers_rows_between_two_steps_is_not_stuck(
    bench_with: BenchWith, run_id: str, seen: Seen, sqlite: Database
) -> None:
    judging = """
    for answered in range(1, 9):
        progress(step=1, max_steps=3, percent=33, answered=answered)
        time.sleep(0.3)
    train(3)
    """
    work_until_idle(with_settings(bench_with(judging), stall_seconds=1.5))
    assert seen().status is RunStatus.SUCCEEDED
    assert [a.error_code for a in attempts(sqlite, run_id)] == [None]


def test_a_run_at_its_time_limit_saves_a_checkpoint_and_fails_with_what_to_do(
    bench_with: BenchWith, run_id: str, seen: Seen, sqlite: Database, settings: Settings
) -> None:
    with sqlite.transaction() as session:
        queries.get_any_run(session, run_id).time_limit_seconds = 2.0
    work_until_idle(bench_with("train(2000, pace=0.03)"))
    run = seen()
    assert (run.status, run.error_code) == (RunStatus.FAILED, "time_limit_exceeded")
    assert run.checkpoint_step == last_step(settings, run_id)
    assert "/retry" in (run.error_hint or "")


def test_a_disk_that_fills_up_stops_the_training_and_keeps_its_checkpoint(
    bench_with: BenchWith, run_id: str, seen: Seen, settings: Settings
) -> None:
    bench = bench_with(SLOW)
    thread = start(with_disk := with_settings(bench), seen)
    # from here on more is wanted than any disk has
    with_disk.settings.__dict__["min_free_disk_mib"] = 10**9
    thread.join(20)
    run = seen()
    assert (run.status, run.error_code) == (RunStatus.FAILED, "disk_full")
    assert run.checkpoint_step


def test_a_second_attempt_on_one_host_ends_what_the_first_has_left_running(
    bench_with: BenchWith, run_id: str, seen: Seen, sqlite: Database, settings: Settings
) -> None:
    """As when a lease runs out while its worker, guard and trainer are all stopped."""
    bench = bench_with(
        "train(400, pace=0.03) if not (root.parent / 'again').exists() else train(3)"
    )
    first = threading.Thread(target=run_attempt, args=[bench, claim(bench)])
    first.start()
    assert eventually(lambda: (seen().progress or {}).get("step", 0) >= 2)
    left = survivors.find(settings.runs)
    assert len(left) == 2  # guard and trainer
    (settings.runs / run_id / "again").touch()
    with sqlite.transaction() as session:
        [(_, lease)] = lifecycle.held_leases(session)
        lifecycle.take_back(session, lease, now=now(session), policy=POLICY)
    work_until_idle(bench)
    assert seen().status is RunStatus.SUCCEEDED
    first.join(20)
    assert survivors.find(settings.runs) == []


def test_a_run_whose_lock_is_held_is_left_to_its_lease(
    bench_with: BenchWith, run_id: str, seen: Seen, settings: Settings
) -> None:
    with hold(RunFiles.of(settings.runs, run_id).lock):
        work_until_idle(bench_with("train(3)"))
    assert (seen().status, seen().attempt) == (RunStatus.RUNNING, 1)
    assert not (settings.runs / run_id / "history.txt").exists()


def test_a_worker_whose_gpu_is_in_use_claims_nothing(
    bench_with: BenchWith, run_id: str, seen: Seen
) -> None:
    bench = replace(bench_with("train(3)"), gpus=["GPU-1"])
    with hold(bench.settings.home / "locks" / "GPU-1"):
        work_until_idle(bench)
        assert (seen().status, seen().attempt) == (RunStatus.QUEUED, 0)
    work_until_idle(bench)
    assert seen().status is RunStatus.SUCCEEDED


def test_a_run_takes_the_gpus_that_are_free_and_as_many_as_it_asks_for(
    bench_with: BenchWith, run_id: str, seen: Seen, settings: Settings
) -> None:
    see = "(root.parent / 'gpus.txt').write_text(os.environ['CUDA_VISIBLE_DEVICES'])\ntrain(3)"
    bench = replace(bench_with(see), gpus=["GPU-1", "GPU-2", "GPU-3"])
    with hold(bench.gpu_lock("GPU-1")):
        work_until_idle(bench)
    assert seen().status is RunStatus.SUCCEEDED
    assert (settings.runs / run_id / "gpus.txt").read_text() == "GPU-2"


def dead_worker() -> str:
    """A process of this host and boot that has ended."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return str(replace(ProcessId.current(), pid=child, ticks=1))


def test_a_dead_workers_run_is_taken_back_at_once_on_its_host(
    bench_with: BenchWith, run_id: str, seen: Seen
) -> None:
    bench = bench_with("train(3)")
    claim(replace(bench, owner=dead_worker()))
    reap(bench)
    assert (seen().status, seen().crashes) == (RunStatus.QUEUED, 1)


@pytest.mark.parametrize("owner", ["another-host:1:deadbeef:1:1:-", "test", "itself"])
def test_a_worker_that_may_be_alive_keeps_its_run(
    bench_with: BenchWith, run_id: str, seen: Seen, owner: str
) -> None:
    bench = bench_with("train(3)")
    itself = str(ProcessId.current())
    claim(replace(bench, owner=itself if owner == "itself" else owner))
    reap(bench)
    assert seen().status is RunStatus.RUNNING


def test_what_a_dead_worker_left_running_is_ended_before_its_run_is_given_back(
    bench_with: BenchWith, run_id: str, seen: Seen, settings: Settings
) -> None:
    bench = bench_with("signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntrain(400, pace=0.03)")
    doomed = replace(bench, owner=dead_worker())
    thread = threading.Thread(target=run_attempt, args=[doomed, claim(doomed)])
    thread.start()
    assert eventually(lambda: (seen().progress or {}).get("step", 0) >= 2)
    for pid in survivors.find(settings.runs):
        os.kill(pid, signal.SIGSTOP)  # the guard too: nobody ends the tree but us
    reap(bench)
    assert seen().status is RunStatus.QUEUED
    assert survivors.find(settings.runs) == []
    thread.join(20)


@pytest.mark.parametrize(("worker", "step"), [("here", 3), ("before a restart", 0)])
def test_what_a_trainer_saved_after_its_worker_died_is_gone_on_from(
    bench_with: BenchWith,
    run_id: str,
    sqlite: Database,
    settings: Settings,
    worker: str,
    step: int,
) -> None:
    """But after a restart of the machine only what a supervisor had seen to the disk."""
    here = ProcessId.current()
    bench = replace(bench_with("train(6)"), owner=str(here))
    dead = dead_worker() if worker == "here" else str(replace(here, boot="deadbeef"))
    lease = claim(replace(bench, owner=dead))
    assert lease is not None
    train_without_a_supervisor(bench_with("checkpoint(3)"), run_id)
    bench_with("train(6)")
    with sqlite.transaction() as session:
        lifecycle.take_back(session, lease, now=now(session), policy=POLICY)
    work_until_idle(bench)
    assert starts(settings, run_id) == [step]


@pytest.mark.parametrize(("is_lost", "left"), [(True, {10, 20, 30}), (False, {20, 30})])
def test_who_has_lost_the_lease_takes_no_checkpoint_away(
    tmp_path: Path, is_lost: bool, left: set[int]
) -> None:
    """Its successor may be going on from an older one just now."""
    run = RunFiles(tmp_path / "run_1")
    for step in (10, 20, 30):
        saved(run, step)
    run.attempt(1).saved.write_text('{"step": 10}\n{"step": 20}\n{"step": 30}\n')
    Keeper(run, 1, LINEAGE, FakeHeartbeat(is_lost)).look()
    assert steps(run) == left


def train_without_a_supervisor(bench: Bench, run_id: str) -> None:
    files = RunFiles.of(bench.settings.runs, run_id).attempt(1)
    files.create()
    subprocess.run(bench.train_command(files, 1), env={ATTEMPT_DIR: str(files.root)}, check=True)


def test_sqlite_refuses_workers_on_two_hosts(bench_with: BenchWith, sqlite: Database) -> None:
    bench = bench_with("train(3)")
    replace(bench, owner="a", host="here").join()
    replace(bench, owner="b", host="here").join()
    with pytest.raises(InvalidSettings, match="SQLite serves one host only; use PostgreSQL"):
        replace(bench, owner="c", host="there").join()
    with sqlite.reading() as session:
        assert {worker.id for worker in session.query(Worker)} == {"a", "b"}


def test_a_worker_that_left_is_no_hindrance(bench_with: BenchWith) -> None:
    bench = bench_with("train(3)")
    gone = replace(bench, owner="a", host="here")
    gone.join()
    gone.leave()
    replace(bench, owner="b", host="there").join()


def test_the_yaml_names_the_checkpoint_that_is_gone_on_from(
    bench_with: BenchWith, run_id: str, seen: Seen, settings: Settings
) -> None:
    bench = bench_with(SLOW)
    thread = start(bench, seen)
    assert "resume_from_checkpoint" not in (seen().axolotl_yaml or "")
    bench.draining.set()
    thread.join(20)
    bench.draining.clear()
    thread = threading.Thread(target=work_until_idle, args=[bench])
    thread.start()
    assert eventually(lambda: "resume_from_checkpoint" in (seen().axolotl_yaml or ""))
    bench.draining.set()
    thread.join(20)


def test_a_checkpoint_holds_what_it_is_in_words(
    bench_with: BenchWith, run_id: str, seen: Seen, settings: Settings
) -> None:
    bench = bench_with(SLOW)
    thread = start(bench, seen)
    bench.draining.set()
    thread.join(20)
    marker: Path = max(
        RunFiles.of(settings.runs, run_id).checkpoints.glob("*/*/checkpoint.json"),
        key=lambda path: int(path.parent.name.rpartition("-")[2]),
    )
    assert json.loads(marker.read_text())["step"] == seen().checkpoint_step
