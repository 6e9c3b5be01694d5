"""A process is known again across restarts, and called dead only when that is certain."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import eventually
from tests.worker.test_process import is_gone
from worker.host import INITIAL_NAMESPACE, ProcessId, read_stat

HERE = ProcessId(
    host="gpu-box",
    machine="3d1219c7",
    boot="1d6e55cb",
    namespace=INITIAL_NAMESPACE,
    pid=4121,
    ticks=987654,
)
CONTAINER = replace(HERE, host="3f2a", machine="-", namespace=4026532601, pid=7)


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        yield process
        process.kill()


def id_of(process: subprocess.Popen[bytes]) -> ProcessId:
    stat = read_stat(process.pid)
    assert stat is not None
    return replace(ProcessId.current(), pid=process.pid, ticks=stat.ticks)


# ---- as text


@pytest.mark.parametrize("id", [HERE, CONTAINER, ProcessId.current(), replace(HERE, boot="-")])
def test_what_was_written_is_read_back(id: ProcessId) -> None:
    assert ProcessId.parse(str(id)) == id


def test_it_begins_with_what_people_look_for() -> None:
    assert str(HERE) == "gpu-box:4121:1d6e55cb:4026531836:987654:3d1219c7"


@pytest.mark.parametrize(
    "written",
    [
        "",
        "test",
        "gpu-box:4121",
        "gpu-box:4121:1d6e55cb:4026531836:987654",
        "gpu-box:4121:1d6e55cb:4026531836:987654:3d1219c7:1",
        "gpu-box:x:1d6e55cb:4026531836:987654:3d1219c7",
        "gpu-box:4121:1D6E55CB:4026531836:987654:3d1219c7",
        "gpu-box:4121:1d6e55cb:4026531836:987654:3d1219c7\n",
        ":4121:1d6e55cb:4026531836:987654:3d1219c7",
        "gpu-box:٤:1d6e55cb:4026531836:987654:3d1219c7",
    ],
)
def test_what_another_has_written_is_nobody(written: str) -> None:
    assert ProcessId.parse(written) is None


# ---- the current process


def test_two_processes_are_two() -> None:
    code = "from worker.host import ProcessId; print(ProcessId.current())"
    root = Path(__file__).parents[2]
    printed = subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True)
    other, here = ProcessId.parse(printed.strip()), ProcessId.current()
    assert other is not None
    assert (other.host, other.boot, other.namespace) == (here.host, here.boot, here.namespace)
    assert (other.pid, other.ticks) != (here.pid, here.ticks)
    assert other.is_dead(here)


def test_the_current_process_is_not_dead() -> None:
    assert not ProcessId.current().is_dead(ProcessId.current())


# ---- on the same boot


def test_a_process_that_runs_is_not_dead(other: subprocess.Popen[bytes]) -> None:
    assert not id_of(other).is_dead(ProcessId.current())


def test_a_zombie_is_dead_and_so_is_what_has_been_fetched(other: subprocess.Popen[bytes]) -> None:
    id, here = id_of(other), ProcessId.current()
    other.kill()
    assert eventually(lambda: is_gone(other.pid))
    assert Path(f"/proc/{other.pid}").exists()
    assert id.is_dead(here)
    other.wait()
    assert id.is_dead(here)


def test_another_process_of_the_same_pid_does_not_keep_it_alive(
    other: subprocess.Popen[bytes],
) -> None:
    id = id_of(other)
    assert replace(id, ticks=id.ticks - 1).is_dead(ProcessId.current())


def test_a_pid_of_another_container_says_nothing(other: subprocess.Popen[bytes]) -> None:
    id = replace(id_of(other), namespace=4026532601)
    other.kill()
    other.wait()
    assert not id.is_dead(ProcessId.current())


def test_a_boot_nobody_knows_says_nothing() -> None:
    unknown = replace(HERE, boot="-", ticks=0)
    assert not unknown.is_dead(HERE)
    assert not HERE.is_dead(unknown)


# ---- after a reboot


def test_whatever_ran_before_a_reboot_is_dead() -> None:
    assert replace(HERE, boot="00000000").is_dead(HERE)


@pytest.mark.parametrize(
    "elsewhere",
    [{"host": "gpu-box-2"}, {"machine": "00000000"}, {"machine": "-"}, {"namespace": 4026532601}],
    ids=str,
)
def test_another_boot_elsewhere_says_nothing(elsewhere: dict[str, str]) -> None:
    assert not replace(HERE, boot="00000000", **elsewhere).is_dead(HERE)  # type: ignore[arg-type]


@pytest.mark.parametrize("unknown", [{"machine": "-"}, {"namespace": 4026532601}], ids=str)
def test_containers_may_share_what_their_image_says(unknown: dict[str, str]) -> None:
    """The same host name and the same id, or none, in two containers on two machines."""
    here = replace(HERE, **unknown)  # type: ignore[arg-type]
    assert not replace(here, boot="00000000").is_dead(here)


# ---- /proc


def test_a_commands_name_may_hold_whatever_it_likes(tmp_path: Path) -> None:
    program = tmp_path / "a) Z (b 1"
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "60"], start_new_session=True) as process:
        stat = read_stat(process.pid)
        before, now = read_stat(os.getpid()), os.getpid()
        process.kill()
    assert stat is not None
    assert before is not None
    assert stat.state in "RSD"
    assert stat.group == process.pid != now
    assert stat.ticks >= before.ticks


def test_a_process_that_is_not_there_has_nothing_to_say() -> None:
    with subprocess.Popen(["/bin/true"]) as process:
        pass
    assert read_stat(process.pid) is None
