"""Real processes under the guard: how they end, and that nothing of them stays behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

import worker.process
from finlora_core.settings import KILL_MARGIN
from finlora_core.training.files import ATTEMPT_DIR
from tests.support import eventually
from tests.worker.test_locks import is_busy
from worker import locks, survivors
from worker.guard import SILENCED
from worker.process import GUARD, GuardedProcess

GRACE = 0.3  # seconds
PIPE_BYTES = 65536  # what a pipe holds on Linux
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

# One that ignores TERM, with a child that left its group and leaves its own pid again and
# again: it forks a successor and ends.
FLEETING = """
import os, pathlib, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if not os.fork():
    os.setsid()
    for generation in range(1_000_000):
        if os.fork():
            os._exit(0)
        if generation == 20:
            pathlib.Path("fleeting").touch()
time.sleep(60)
"""

# A guard that neither ends its tree nor hears of its supervisor's end.
DEAF_GUARD = """
import subprocess, sys
subprocess.Popen(sys.argv[4:], start_new_session=True).wait()
"""

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


def pids_of(folder: Path) -> list[Path]:
    return list(folder.glob("*.pid"))


def stop_seconds(process: GuardedProcess) -> float:
    started = time.monotonic()
    process.stop()
    return time.monotonic() - started


Start = Callable[..., GuardedProcess]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts guarded processes in the test's own folder, and ends them with it."""
    started: list[GuardedProcess] = []

    def start_one(
        *command: str,
        env: dict[str, str] = ENV,
        silence: float = 60,
        held: Sequence[int] = (),
    ) -> GuardedProcess:
        process = GuardedProcess.start(
            command,
            log=tmp_path / "train.log",
            cwd=tmp_path,
            env=env,
            grace=GRACE,
            silence=silence,
            locks=held,
        )
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.stop()


@pytest.fixture
def marked(tmp_path: Path) -> dict[str, str]:
    """The environment of an attempt's processes, by which they can be found."""
    return {**ENV, ATTEMPT_DIR: str(tmp_path)}


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
    process = start("/no/such/command")
    assert process.wait(20) == 127
    assert process.gone
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
    assert process.gone
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


def test_the_exit_code_tells_silence_from_a_trainer_that_failed(start: Start) -> None:
    assert start("/bin/sleep", "60", silence=0.2).wait(20) == SILENCED


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


# ---- nothing stays behind a guard that was killed, or stopped


def test_a_tree_that_runs_is_not_gone(start: Start) -> None:
    process = start("/bin/sleep", "60")
    assert process.wait(0) is None
    assert not process.gone


def test_a_tree_that_ended_by_itself_is_gone(start: Start) -> None:
    process = start("/bin/sh", "-c", "exit 3")
    assert process.wait(20) == 3
    assert process.gone


def test_what_a_killed_guard_leaves_behind_is_ended(
    start: Start, tmp_path: Path, marked: dict[str, str]
) -> None:
    """Its rank ignores the trainer's end, and the others are in sessions of their own."""
    process = start(*python(STUBBORN), env=marked)
    pids = [pid(tmp_path, name) for name in TREE]
    process.guard.kill()
    assert process.wait(20) == -signal.SIGKILL
    assert [p for p in pids if not is_gone(p)] == []
    assert process.gone


def test_stop_ends_what_a_killed_guard_has_left_behind(
    start: Start, tmp_path: Path, marked: dict[str, str]
) -> None:
    process = start(*python(STUBBORN), env=marked)
    pids = [pid(tmp_path, name) for name in TREE]
    process.guard.kill()
    process.stop()
    assert [p for p in pids if not is_gone(p)] == []
    assert process.gone


def test_without_a_mark_nobody_can_tell_what_a_killed_guard_has_left_behind(
    start: Start,
) -> None:
    process = start("/bin/sleep", "60")
    process.guard.kill()
    assert process.wait(20) == -signal.SIGKILL
    assert not process.gone


def test_a_guard_that_fails_does_not_look_like_one_that_ended_its_tree() -> None:
    failed = subprocess.run(
        [sys.executable, str(GUARD), "no number", "60", "", "true"], capture_output=True
    )
    assert failed.returncode == -signal.SIGKILL
    assert b"no number" in failed.stderr


def test_stop_wakes_a_guard_that_is_stopped(start: Start, tmp_path: Path) -> None:
    process = start(*python(STUBBORN))
    pids = [pid(tmp_path, name) for name in TREE]
    process.guard.send_signal(signal.SIGSTOP)
    assert stop_seconds(process) < GRACE + 1
    assert [p for p in pids if not is_gone(p)] == []
    assert process.gone
    assert process.wait(0) == 137


def test_stop_kills_a_guard_that_does_not_answer(
    start: Start, tmp_path: Path, marked: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = tmp_path / "deaf_guard.py"
    guard.write_text(DEAF_GUARD)
    monkeypatch.setattr(worker.process, "GUARD", guard)
    process = start(*python(STUBBORN), env=marked)
    pids = [pid(tmp_path, name) for name in TREE]
    assert stop_seconds(process) < GRACE + KILL_MARGIN
    assert [p for p in pids if not is_gone(p)] == []
    assert process.gone
    assert process.wait(0) == -signal.SIGKILL


@pytest.mark.parametrize("trainer", [STUBBORN, FLEETING], ids=["stubborn", "fleeting"])
@pytest.mark.parametrize("sig", [signal.SIGCONT, signal.SIGSTOP, signal.SIGKILL])
def test_a_stop_takes_little_more_than_the_grace(
    start: Start, tmp_path: Path, marked: dict[str, str], trainer: str, sig: signal.Signals
) -> None:
    """Whatever happened to the guard just before."""
    process = start(*python(trainer), env=marked)
    assert eventually(lambda: (tmp_path / "fleeting").exists() or len(pids_of(tmp_path)) == 4)
    process.guard.send_signal(sig)
    assert stop_seconds(process) < GRACE + 1
    assert survivors.find(tmp_path) == []
    assert process.gone


@pytest.mark.timeout(60)
def test_a_beat_never_waits_for_a_guard_that_is_stopped(start: Start) -> None:
    process = start("/bin/sleep", "60")
    process.guard.send_signal(signal.SIGSTOP)
    for _ in range(PIPE_BYTES + 1):
        process.beat()
    process.guard.send_signal(signal.SIGCONT)
    process.stop()
    assert process.wait(0) == 128 + signal.SIGTERM


def test_a_beat_for_what_has_ended_is_lost(start: Start) -> None:
    process = start("/bin/true")
    process.guard.wait(20)
    process.beat()
    assert process.wait(0) == 0
    process.beat()


# ---- locks


def test_a_lock_is_free_only_once_the_tree_is_gone(start: Start, tmp_path: Path) -> None:
    with locks.hold(tmp_path / "lock") as lock:
        process = start(*python(STUBBORN), held=[lock])
        for name in TREE:
            pid(tmp_path, name)
    assert is_busy(tmp_path / "lock")
    process.stop()
    assert not is_busy(tmp_path / "lock")


def test_a_lock_outlives_a_killed_guard_with_what_it_left_behind(
    start: Start, tmp_path: Path
) -> None:
    with locks.hold(tmp_path / "lock") as lock:
        process = start(*python(STUBBORN), held=[lock])
        pids = [pid(tmp_path, name) for name in TREE]
    process.guard.kill()
    assert process.wait(20) == -signal.SIGKILL
    assert not is_gone(pid(tmp_path, "deeper"))
    assert is_busy(tmp_path / "lock")
    for left in pids[1:]:
        os.kill(left, signal.SIGKILL)
    assert eventually(lambda: not is_busy(tmp_path / "lock"))


def test_several_locks_are_inherited_and_nothing_else(start: Start, tmp_path: Path) -> None:
    with locks.hold(tmp_path / "run") as run, locks.hold(tmp_path / "gpu") as gpu:
        process = start("/bin/sh", "-c", "ls -l /proc/$$/fd", held=[run, gpu])
        assert process.wait(20) == 0
    log = (tmp_path / "train.log").read_text()
    assert {line.rpartition("-> ")[2] for line in log.splitlines()[1:]} == {
        "/dev/null",
        *(str(tmp_path.resolve() / name) for name in ("train.log", "run", "gpu")),
    }
