"""Processes of attempts are found by what their environment says, and ended."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from finlora_core.training.files import ATTEMPT_DIR, AttemptFiles, RunFiles
from tests.support import eventually
from tests.worker.test_process import FLEETING, STUBBORN, TREE, is_gone, pid
from worker import survivors

Spawn = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def run(tmp_path: Path) -> RunFiles:
    return RunFiles.of(tmp_path / "runs", "run_1")


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Spawn]:
    """Starts processes of an attempt without any guard, in a session of their own."""
    spawned: list[subprocess.Popen[bytes]] = []

    def spawn_one(
        attempt: AttemptFiles,
        *command: str,
        env: dict[str, str] | None = None,
        own_session: bool = True,
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command or ("/bin/sleep", "60"),
            env={"LC_ALL": "C.UTF-8", ATTEMPT_DIR: str(attempt.root)} if env is None else env,
            cwd=tmp_path,
            start_new_session=own_session,
        )
        spawned.append(process)
        shown = Path(f"/proc/{process.pid}/environ")  # empty until exec is through
        assert env == {} or eventually(lambda: shown.read_bytes() != b"")
        return process

    yield spawn_one
    for process in spawned:
        process.kill()
        process.wait()


# ---- finding


def test_the_processes_of_an_attempt_are_found(run: RunFiles, spawn: Spawn) -> None:
    pids = sorted(spawn(run.attempt(1)).pid for _ in range(3))
    assert survivors.find(run.attempt(1).root) == pids


def test_the_processes_of_another_attempt_are_not(run: RunFiles, spawn: Spawn) -> None:
    spawn(run.attempt(10))
    assert survivors.find(run.attempt(1).root) == []


def test_a_runs_folder_finds_those_of_all_its_attempts(run: RunFiles, spawn: Spawn) -> None:
    pids = sorted(spawn(run.attempt(number)).pid for number in (1, 2))
    spawn(RunFiles.of(run.root.parent, "run_11").attempt(1))
    assert survivors.find(run.root) == pids


@pytest.mark.parametrize("start", [f"X_{ATTEMPT_DIR}=", f"X={ATTEMPT_DIR}=", "X="])
def test_only_the_variable_itself_counts(run: RunFiles, spawn: Spawn, start: str) -> None:
    name, _, value = f"{start}{run.attempt(1).root}".partition("=")
    spawn(run.attempt(1), env={name: value})
    assert survivors.find(run.root) == []


def test_what_left_for_another_session_is_found_after_its_parents_have_ended(
    run: RunFiles, spawn: Spawn, tmp_path: Path
) -> None:
    trainer = spawn(run.attempt(1), sys.executable, "-c", STUBBORN)
    pids = {name: pid(tmp_path, name) for name in TREE}
    trainer.kill()
    trainer.wait()
    del pids["trainer"]
    assert survivors.find(run.root) == sorted(pids.values())
    assert survivors.end(run.root, seconds=20)


def test_a_zombie_is_not_found(run: RunFiles, spawn: Spawn) -> None:
    process = spawn(run.attempt(1))
    process.kill()
    assert eventually(lambda: is_gone(process.pid))
    assert survivors.find(run.root) == []


def test_a_process_neither_finds_nor_ends_itself(run: RunFiles, spawn: Spawn) -> None:
    code = (
        "import sys; from pathlib import Path; from worker import survivors\n"
        "folder = Path(sys.argv[1])\n"
        "sys.exit(0 if survivors.find(folder) == [] and survivors.end(folder, seconds=9) else 1)"
    )
    path = {ATTEMPT_DIR: str(run.attempt(1).root), "PYTHONPATH": str(Path(__file__).parents[2])}
    process = spawn(run.attempt(1), sys.executable, "-c", code, str(run.root), env=path)
    assert process.wait(20) == 0


def test_processes_that_vanish_while_we_look_do_no_harm(run: RunFiles, spawn: Spawn) -> None:
    brief = spawn(run.attempt(1), "/bin/sh", "-c", "while :; do /bin/true; done", env={})
    for _ in range(100):
        assert survivors.find(run.root) == []
    assert brief.poll() is None


# ---- ending


def test_where_nothing_is_left_there_is_nothing_to_end(run: RunFiles) -> None:
    assert survivors.end(run.root, seconds=20)


def test_everything_is_ended_whatever_it_ignores(
    run: RunFiles, spawn: Spawn, tmp_path: Path
) -> None:
    spawn(run.attempt(1), sys.executable, "-c", STUBBORN)
    pids = [pid(tmp_path, name) for name in TREE]
    assert survivors.end(run.root, seconds=20)
    assert [p for p in pids if not is_gone(p)] == []


def test_one_that_is_stopped_is_ended_too(run: RunFiles, spawn: Spawn) -> None:
    process = spawn(run.attempt(1))
    process.send_signal(signal.SIGSTOP)
    assert survivors.end(run.root, seconds=20)
    assert is_gone(process.pid)


def test_one_that_forks_faster_than_we_look_is_ended_too(
    run: RunFiles, spawn: Spawn, tmp_path: Path
) -> None:
    spawn(run.attempt(1), sys.executable, "-c", FLEETING)
    assert eventually((tmp_path / "fleeting").exists)
    assert survivors.end(run.root, seconds=20)
    assert survivors.find(run.root) == []


def test_one_that_is_amid_exec_is_ended_too(run: RunFiles, spawn: Spawn, tmp_path: Path) -> None:
    """It shows no environment then; this one is so again and again."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexec $0")
    program.chmod(0o700)
    for _ in range(10):
        process = spawn(run.attempt(1), str(program))
        assert survivors.end(run.root, seconds=20)
        assert is_gone(process.pid)


def test_while_one_may_be_left_it_says_so(run: RunFiles, spawn: Spawn) -> None:
    """Without time to look again after the kill."""
    process = spawn(run.attempt(1))
    assert not survivors.end(run.root, seconds=0)
    assert eventually(lambda: is_gone(process.pid))
    assert survivors.end(run.root, seconds=0)


def test_processes_of_other_attempts_live_on(run: RunFiles, spawn: Spawn) -> None:
    other = spawn(run.attempt(2))
    spawn(run.attempt(1))
    assert survivors.end(run.attempt(1).root, seconds=20)
    assert other.poll() is None


def test_strangers_in_its_group_live_on(run: RunFiles, spawn: Spawn) -> None:
    """Started by hand from a shell: the group is the shell's, and so is this test's own."""
    stranger = spawn(run.attempt(1), env={}, own_session=False)
    ended = spawn(run.attempt(1), own_session=False)
    assert survivors.end(run.root, seconds=20)
    assert is_gone(ended.pid)
    assert stranger.poll() is None


def test_a_stranger_that_leads_its_group_lives_on(
    run: RunFiles, spawn: Spawn, tmp_path: Path
) -> None:
    mark = f"{ATTEMPT_DIR}={run.attempt(1).root}"
    shell = f"{mark} sleep 60 & echo $! > new; mv new sh.pid; exec sleep 60"
    stranger = spawn(run.attempt(1), "/bin/sh", "-c", shell, env=dict(os.environ))
    ended = pid(tmp_path, "sh")
    assert eventually(lambda: survivors.find(run.root) == [ended])
    assert survivors.end(run.root, seconds=20)
    assert is_gone(ended)
    assert stranger.poll() is None
