"""A lock is held by whoever has its file open, and by nobody else."""

import fcntl
import signal
import stat
import subprocess
from pathlib import Path

import pytest

from tests.support import eventually
from worker.locks import Busy, hold


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "run_1" / "lock"


def is_busy(path: Path) -> bool:
    try:
        with hold(path):
            return False
    except Busy:
        return True


def test_it_is_held_once(path: Path) -> None:
    with hold(path), pytest.raises(Busy, match="run_1/lock is locked"), hold(path):
        pass


def test_it_is_free_again_afterwards(path: Path) -> None:
    for _ in range(2):
        with hold(path):
            assert is_busy(path)
        assert not is_busy(path)


def test_it_is_free_again_after_an_error(path: Path) -> None:
    with pytest.raises(KeyError), hold(path):
        raise KeyError
    assert not is_busy(path)


def test_locks_of_different_names_are_different(path: Path, tmp_path: Path) -> None:
    with hold(path), hold(tmp_path / "gpu-GPU-8f"):
        pass


def test_its_folder_is_made_and_nobody_else_may_open_it(path: Path) -> None:
    with hold(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_whoever_could_not_have_it_has_not_spoilt_it(path: Path) -> None:
    with hold(path):
        assert is_busy(path)
        assert is_busy(path)


def test_it_stays_with_a_process_that_inherited_it(path: Path) -> None:
    with hold(path) as descriptor:
        heir = subprocess.Popen(["/bin/sleep", "60"], pass_fds=[descriptor])
    assert is_busy(path)
    heir.send_signal(signal.SIGKILL)
    heir.wait()
    assert not is_busy(path)


def test_a_process_that_was_not_given_it_does_not_keep_it(path: Path) -> None:
    with hold(path):
        other = subprocess.Popen(["/bin/sleep", "60"], close_fds=False)
    # between fork and exec even this one has it
    assert eventually(lambda: not is_busy(path))
    assert other.poll() is None
    other.kill()
    other.wait()


def test_a_file_that_is_swept_away_meanwhile_is_not_what_gets_locked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise two could hold the lock: one of the old file, one of the new."""
    flock = fcntl.flock

    def sweep_then_lock(descriptor: int, operation: int) -> None:
        monkeypatch.undo()
        path.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", sweep_then_lock)
    with hold(path):
        assert is_busy(path)
