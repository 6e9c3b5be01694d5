"""An adapter's bytes: of one file, or of all as a tar archive that is the same each time.

The archive is never written anywhere: its size and any part of it are computed from the
list of files.
"""

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from finlora_core.adapters.manifest import File

CHUNK = 2 * 1024 * 1024
"""Bytes. Each is read in a thread: with half of it a download takes a quarter more CPU."""

END = b"\0" * (2 * tarfile.BLOCKSIZE)


def read(path: Path, start: int, end: int) -> Iterator[bytes]:
    """The bytes of a plain file from `start` up to `end`; a symbolic link is refused."""
    with open(path, "rb", opener=_without_links) as content:
        content.seek(start)
        while start < end and (chunk := content.read(min(CHUNK, end - start))):
            yield chunk
            start += len(chunk)


def size(files: Sequence[File], *, top: str) -> int:
    """Bytes of the archive that `stream` gives."""
    return sum(length for length, _ in _parts(Path(), files, top, 0))


def sha256(files: Sequence[File], *, top: str, at: datetime) -> str:
    """Of all that decides the archive's bytes: equal ones come from equal archives."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(_header(file, top, int(at.timestamp())) + file.sha256.encode())
    return digest.hexdigest()


def stream(
    folder: Path,
    files: Sequence[File],
    *,
    top: str,
    at: datetime,
    start: int = 0,
    end: int | None = None,
) -> Iterator[bytes]:
    """The files of `folder`, each below `top/`, dated `at`: the bytes from `start` up to `end`."""
    end = size(files, top=top) if end is None else end
    for length, read_part in _parts(folder, files, top, int(at.timestamp())):
        first, last = max(0, start), min(length, end)
        if first < last:
            yield from read_part(first, last)
        start, end = start - length, end - length


def _parts(
    folder: Path, files: Sequence[File], top: str, mtime: int
) -> Iterator[tuple[int, Callable[[int, int], Iterator[bytes]]]]:
    """What the archive is made of, in order: each part's length, and how to read some of it."""
    for file in files:
        yield _known(_header(file, top, mtime))
        yield file.size, partial(read, folder / file.path)
        yield _known(b"\0" * (-file.size % tarfile.BLOCKSIZE))
    yield _known(END)


def _known(content: bytes) -> tuple[int, Callable[[int, int], Iterator[bytes]]]:
    return len(content), lambda first, last: iter([content[first:last]])


def _header(file: File, top: str, mtime: int) -> bytes:
    info = tarfile.TarInfo(f"{top}/{file.path}")
    info.size, info.mtime = file.size, mtime
    return info.tobuf(tarfile.PAX_FORMAT)


def _without_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)
