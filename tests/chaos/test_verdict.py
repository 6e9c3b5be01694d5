"""The oracle sees what it is there for: otherwise its silence would prove nothing."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from finlora_core.adapters.manifest import File
from finlora_core.adapters.store import AdapterStore
from finlora_core.runs.status import RunStatus
from tests.chaos.clients import Ledger
from tests.chaos.oracle import History, read_histories
from tests.chaos.traits import TRAINER, Traits
from tests.chaos.verdict import Ended, Listed, Truth, judge
from tests.lora import write_adapter
from tests.support import NOON, eventually

TRAITS = Traits(
    steps=10**6, step_seconds=0.01, save_every=10**6, ignores_term=False, straggler=False
)
RUN = "run_1"
DONE = Ended(RUN, 1, RunStatus.SUCCEEDED, None, NOON)
FILE = File(path="adapter_config.json", size=2, sha256="0" * 64)
ADAPTER = Listed("adp_1", RUN, "8bits_r8", "alpha", 1, [FILE])
TRUTH = Truth({RUN: DONE}, [], {RUN: 1}, [])


class Host:
    """Trainers of one run, without any service around them."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._trainers: list[subprocess.Popen[bytes]] = []
        write_adapter(root / "adapter")
        for name in ("oracle", "templates"):
            (root / name).mkdir()

    def train(self, attempt: int, traits: Traits = TRAITS) -> subprocess.Popen[bytes]:
        folder = self._root / RUN / f"attempt-{attempt}"
        folder.mkdir(parents=True)
        (folder / "axolotl.yaml").write_text("seed: 1\n")
        shared = {name: str(self._root / name) for name in ("oracle", "adapter", "templates")}
        given = json.dumps({**asdict(traits), **shared})
        command = [sys.executable, "-I", "-S", str(TRAINER), given, str(folder / "axolotl.yaml")]
        env = {"FINLORA_ATTEMPT_DIR": str(folder)}
        self._trainers.append(subprocess.Popen(command, env=env, start_new_session=True))
        assert eventually(lambda: self._has_noted(attempt, "start"))
        return self._trainers[-1]

    @property
    def log(self) -> History:
        return read_histories(self._root / "oracle")[RUN]

    def _has_noted(self, attempt: int, kind: str) -> bool:
        logs = read_histories(self._root / "oracle").values()
        return any(event["attempt"] == attempt for log in logs for event in log.of_kind(kind))

    def end(self) -> None:
        for trainer in self._trainers:
            trainer.kill()
            trainer.wait()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    host = Host(tmp_path)
    yield host
    host.end()


def found_in(
    tmp_path: Path,
    truth: Truth = TRUTH,
    *,
    log: History | None = None,
    accepted: Sequence[str] = (RUN,),
) -> set[str]:
    """The names of the verdict's lists that are not empty."""
    ledger = Ledger(accepted=set(accepted))
    store = AdapterStore(tmp_path / "adapters")
    verdict = judge(truth, {RUN: log} if log else {}, ledger, store, [])
    return {name for name, entries in asdict(verdict).items() if entries}


def test_two_trainers_of_a_run_at_once_are_an_overlap(host: Host, tmp_path: Path) -> None:
    host.train(1)
    host.train(2)
    assert "overlaps" in found_in(tmp_path, log=host.log)


def test_a_trainer_after_another_has_gone_is_none(host: Host) -> None:
    host.train(1).kill()
    host.end()
    host.train(2)
    assert host.log.of_kind("overlap") == []


def test_a_child_left_in_another_session_is_an_overlap_too(host: Host, tmp_path: Path) -> None:
    host.train(1, replace(TRAITS, straggler=True)).kill()
    host.end()
    host.train(2)
    [overlap] = host.log.of_kind("overlap")
    os.kill(straggler(tmp_path / "oracle" / f"{RUN}.lock"), signal.SIGKILL)
    assert overlap["attempt"] == 2


def straggler(lock: Path) -> int:
    """The pid of the process that still has this file open, and is no trainer."""
    for fd in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            comm = (fd.parent.parent / "comm").read_text()
            if comm.strip() == "straggler" and os.readlink(fd) == str(lock):
                return int(fd.parent.parent.name)
        except OSError:
            continue
    raise AssertionError(f"nobody has {lock} open")


def test_an_accepted_run_that_is_not_in_the_database_is_lost(tmp_path: Path) -> None:
    assert "lost" in found_in(tmp_path, accepted=[RUN, "run_2"])


@pytest.mark.parametrize("status", [s for s in RunStatus if s is not RunStatus.SUCCEEDED])
def test_a_run_that_did_not_come_to_the_end_it_should_is_lost(
    tmp_path: Path, status: RunStatus
) -> None:
    """Cancelled too: nobody had asked for it."""
    truth = replace(TRUTH, runs={RUN: replace(DONE, status=status)})
    assert "lost" in found_in(tmp_path, truth)


@pytest.mark.parametrize(
    "truth",
    [
        TRUTH,  # no adapter
        replace(TRUTH, adapters=[ADAPTER, replace(ADAPTER, id="adp_2", version=2)]),
        replace(TRUTH, adapters=[ADAPTER], completed_attempts={RUN: 2}),
        replace(TRUTH, adapters=[ADAPTER, replace(ADAPTER, id="adp_2", run_id="run_2")]),
    ],
    ids=["without an adapter", "two adapters", "two attempts", "one version twice"],
)
def test_whatever_is_not_exactly_one_success_is_found(tmp_path: Path, truth: Truth) -> None:
    assert "finished_twice" in found_in(tmp_path, truth)


def test_a_step_after_the_end_is_found(tmp_path: Path) -> None:
    wall = NOON.timestamp()
    start = {"event": "start", "attempt": 1, "at": 100.0, "wall": wall, "step": 0}
    step = {"event": "step", "attempt": 1, "at": 102.0, "step": 1}
    early = replace(TRUTH, runs={RUN: replace(DONE, finished_at=at(wall + 1))})
    late = replace(TRUTH, runs={RUN: replace(DONE, finished_at=at(wall + 3))})
    log = History(RUN, [start, step])
    assert "trained_after_end" in found_in(tmp_path, early, log=log)
    assert "trained_after_end" not in found_in(tmp_path, late, log=log)


def at(wall: float) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=wall)


def test_a_listed_file_that_is_not_what_it_should_be_is_found(tmp_path: Path) -> None:
    truth = replace(TRUTH, adapters=[ADAPTER])
    assert "torn_adapters" in found_in(tmp_path, truth)
    folder = AdapterStore(tmp_path / "adapters").folder(ADAPTER.id)
    folder.mkdir(parents=True)
    (folder / FILE.path).write_text("{}")
    assert "torn_adapters" in found_in(tmp_path, truth)


def test_another_number_than_an_undisturbed_training_gives_is_found(tmp_path: Path) -> None:
    log = History(RUN, [{"event": "done", "attempt": 1, "at": 1.0, "step": 3, "state": 7}])
    assert "wrong_results" in found_in(tmp_path, log=log)
