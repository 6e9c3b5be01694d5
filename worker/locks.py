"""Locks on this host that live exactly as long as the processes that hold them.

A `flock` belongs to the opened file, which children inherit: it is free when the last
process that has it open is gone, however that went. The files stay; nobody removes them
to unlock.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Busy(Exception):
    """Another process of this host holds the lock."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is locked by another process")
        self.path = path


def gpu_lock(home: Path, gpu: str) -> Path:
    """Held by whatever uses the GPU of this UUID: a training, or the playground's model."""
    return home / "locks" / gpu


@contextmanager
def hold(path: Path) -> Iterator[int]:
    """Lock `path`, or raise `Busy`; gives the descriptor to hand to processes.

    At the end only our own copy is closed: with a process that inherited it the lock stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _locked(path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """At this moment; who must be sure holds it."""
    try:
        with hold(path):
            return False
    except Busy:
        return True


def _locked(path: Path) -> int:
    """The file may be swept away between opening and locking; such a lock would bind nobody."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise Busy(path) from None
        except BaseException:
            os.close(descriptor)
            raise
        if _is_at(path, descriptor):
            return descriptor
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False
