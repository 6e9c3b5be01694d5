"""Real processes under the guard: how they end, and that nothing of them stays behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import eventually
from worker.process import GuardedProcess

GRACE = 0.3  # seconds
ENV = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}

# A trainer that will not go: it ignores TERM, as do its rank, a child in another session, and
# a child of that in a third one. Each writes its pid when it is ready.
STUBBORN = """
import os, pathlib, signal, sys, time
def child(name, escape, below=None):
    if os.fork():
        return
    if escape:
        os.setsid()
    if below:
        child(below, escape)
    ready(name)
def ready(name):
    pathlib.Path(name + ".new").write_text(str(os.getpid()))
    pathlib.Path(name + ".new").rename(name + ".pid")
    while True:
        time.sleep(60)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child("rank", escape=False)
child("escaped", escape=True, below="deeper")
ready("trainer")
"""
TREE = ("trainer", "rank", "escaped", "deeper")

# The worker's side, in a process of its own that can be killed.
SUPERVISOR = """
import sys, time
from pathlib import Path
from worker.process import GuardedProcess
folder = Path(sys.argv[1])
process = GuardedProcess.start(
    [sys.executable, "-c", sys.argv[2]],
    log=folder / "log", cwd=folder, env={}, grace=0.3, silence=3,
)
(folder / "guard.new").write_text(str(process.guard.pid))
(folder / "guard.new").rename(folder / "guard.pid")
while True:
    process.beat()
    time.sleep(0.1)
"""


def pid(folder: Path, name: str) -> int:
    file = folder / f"{name}.pid"
    assert eventually(file.exists), f"{name} did not start"
    return int(file.read_text())


def is_gone(pid: int) -> bool:
    """A zombie counts as gone: it runs no more and only waits to be fetched."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


Start = Callable[..., GuardedProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts guarded processes in the test's own folder, and ends them with it."""
    started: list[GuardedProcess] = []

    def start_one(*command: str, env: dict[str, str] = ENV, silence: float = 60) -> GuardedProcess:
        process = GuardedProcess.start(
            command,
            log=tmp_path / "train.log",
            cwd=tmp_path,
            env=env,
            grace=GRACE,
            silence=silence,
        )
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.stop()


def python(code: str) -> tuple[str, str, str]:
    return sys.executable, "-c", code


# ---- how it ends


@pytest.mark.parametrize("code", [0, 1, 3, 255])
def test_the_exit_code_is_the_trainers(start: Start, code: int) -> None:
    assert start("/bin/sh", "-c", f"exit {code}").wait(20) == code


@pytest.mark.parametrize(("sig", "code"), [("KILL", 137), ("TERM", 143), ("ABRT", 134)])
def test_a_killed_trainer_gives_128_and_the_signal(start: Start, sig: str, code: int) -> None:
    assert start("/bin/sh", "-c", f"kill -{sig} $$").wait(20) == code


def test_a_trainer_that_still_runs_has_no_exit_code(start: Start) -> None:
    process = start("/bin/sleep", "60")
    assert process.wait(0) is None
    assert process.wait(0.01) is None


def test_a_command_that_is_not_there_fails_and_says_so_in_the_log(
    start: Start, tmp_path: Path
) -> None:
    assert start("/no/such/command").wait(20) not in (0, None)
    assert "/no/such/command" in (tmp_path / "train.log").read_text()


# ---- what is around it


def test_the_environment_is_what_was_given_and_nothing_else(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINLORA_DATABASE_PASSWORD", "of the worker")
    env = {"LC_ALL": "C.UTF-8", "A": "1", "PYTHONPATH": "/of/the/trainer"}
    assert start("/bin/cat", "/proc/self/environ", env=env).wait(20) == 0
    shown = (tmp_path / "train.log").read_bytes().removesuffix(b"\0").split(b"\0")
    assert dict(entry.decode().split("=", 1) for entry in shown) == env


def test_the_trainers_modules_cannot_get_into_the_guard(start: Start, tmp_path: Path) -> None:
    (tmp_path / "select.py").write_text("raise SystemExit(9)")
    assert start("/bin/true", env={**ENV, "PYTHONPATH": str(tmp_path)}).wait(20) == 0


def test_the_output_goes_behind_what_the_log_holds(start: Start, tmp_path: Path) -> None:
    (tmp_path / "train.log").write_text("fetched\n")
    assert start("/bin/sh", "-c", "echo out; echo err >&2").wait(20) == 0
    assert (tmp_path / "train.log").read_text() == "fetched\nout\nerr\n"


def test_it_runs_in_its_folder_and_reads_nothing(start: Start, tmp_path: Path) -> None:
    assert start("/bin/sh", "-c", "cat; pwd -P").wait(20) == 0
    assert (tmp_path / "train.log").read_text() == f"{tmp_path.resolve()}\n"


def test_it_inherits_no_open_file(start: Start, tmp_path: Path) -> None:
    with (tmp_path / "database").open("w") as secret:
        os.set_inheritable(secret.fileno(), True)
        assert start("/bin/sh", "-c", "ls -l /proc/$$/fd").wait(20) == 0
    assert "database" not in (tmp_path / "train.log").read_text()


# ---- nothing stays behind


def test_stop_lets_the_trainer_end_by_itself(start: Start, tmp_path: Path) -> None:
    process = start(*python(
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(5)))\n"
        "pathlib.Path('ready').touch()\n"
        "time.sleep(60)"
    ))  # fmt: skip
    assert eventually((tmp_path / "ready").exists)
    process.stop()
    assert process.wait(0) == 5
    assert (tmp_path / "train.log").read_text() == "saved\n"


def test_stop_lets_the_ranks_end_by_themselves_too(start: Start, tmp_path: Path) -> None:
    process = start(*python(
        "import os, pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), os._exit(6)))\n"
        "rank = os.fork()\n"
        "if not rank:\n"
        "    pathlib.Path('ready').touch()\n"
        "    time.sleep(60)\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]))"
    ))  # fmt: skip
    assert eventually((tmp_path / "ready").exists)
    process.stop()
    assert process.wait(0) == 6


def test_stop_ends_a_tree_that_ignores_term_and_a_child_that_left_it(
    start: Start, tmp_path: Path
) -> None:
    process = start(*python(STUBBORN))
    pids = [pid(tmp_path, name) for name in TREE]
    process.stop()
    assert [p for p in pids if not is_gone(p)] == []
    assert process.wait(0) == 137


def test_stopping_what_has_ended_changes_nothing(start: Start) -> None:
    process = start("/bin/sh", "-c", "exit 3")
    assert process.wait(20) == 3
    process.stop()
    process.stop()
    assert process.wait(0) == 3


def test_a_trainer_that_ends_takes_along_what_it_left_running(
    start: Start, tmp_path: Path
) -> None:
    process = start(*python(
        STUBBORN.replace('ready("trainer")', "") +
        "while len(list(pathlib.Path().glob('*.pid'))) < 3:\n"
        "    time.sleep(0.01)\n"
        "sys.exit(4)"
    ))  # fmt: skip
    assert process.wait(20) == 4
    assert [name for name in TREE[1:] if not is_gone(pid(tmp_path, name))] == []


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker in a process of its own, its stubborn tree up and running."""
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(tmp_path), STUBBORN], cwd=root
    ) as process:
        for name in (*TREE, "guard"):
            pid(tmp_path, name)
        yield process
        process.kill()


def test_the_tree_dies_with_a_supervisor_that_was_killed(
    supervisor: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    supervisor.kill()
    for name in (*TREE, "guard"):
        assert eventually(lambda name=name: is_gone(pid(tmp_path, name))), name  # type: ignore[misc]


def test_the_tree_dies_with_a_supervisor_that_is_stopped_and_silent(
    supervisor: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    """A worker that cannot run cannot renew its lease: another may train the run by now."""
    supervisor.send_signal(signal.SIGSTOP)
    for name in (*TREE, "guard"):
        assert eventually(lambda name=name: is_gone(pid(tmp_path, name))), name  # type: ignore[misc]
    assert supervisor.poll() is None


def test_a_tree_lives_on_while_its_supervisor_beats(start: Start, tmp_path: Path) -> None:
    process = start(*python(STUBBORN), silence=1)
    beats_end = time.monotonic() + 3
    while time.monotonic() < beats_end:
        process.beat()
        assert process.wait(0.1) is None


def test_a_signal_to_the_supervisors_group_does_not_reach_the_training(
    start: Start, tmp_path: Path
) -> None:
    """Ctrl-C at the terminal: the worker decides what becomes of the run."""
    process = start(*python(STUBBORN))
    groups = {os.getpgid(pid(tmp_path, name)) for name in TREE} | {os.getpgid(process.guard.pid)}
    assert os.getpgid(0) not in groups


def test_the_trainer_dies_with_a_guard_that_was_killed(start: Start, tmp_path: Path) -> None:
    process = start("/bin/sh", "-c", "echo $$ > new; mv new sh.pid; exec sleep 60")
    trainer = pid(tmp_path, "sh")
    process.guard.send_signal(signal.SIGKILL)
    assert process.wait(20) == -signal.SIGKILL
    assert eventually(lambda: is_gone(trainer))
