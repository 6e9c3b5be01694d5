"""An adapter as one tar archive: size known before the first byte, the same bytes each time."""

import tarfile
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from finlora_core.adapters.manifest import File

CHUNK = 1024 * 1024  # bytes
END = b"\0" * (2 * tarfile.BLOCKSIZE)


def size(files: Sequence[File], *, top: str) -> int:
    """Bytes of the archive that `stream` gives."""
    headers = sum(len(_header(file, top, 0)) for file in files)
    return headers + sum(file.size + _padding(file) for file in files) + len(END)


def stream(folder: Path, files: Sequence[File], *, top: str, at: datetime) -> Iterator[bytes]:
    """The files of `folder`, each below `top/`, dated `at`."""
    for file in files:
        yield _header(file, top, int(at.timestamp()))
        with (folder / file.path).open("rb") as content:
            while chunk := content.read(CHUNK):
                yield chunk
        yield b"\0" * _padding(file)
    yield END


def _header(file: File, top: str, mtime: int) -> bytes:
    info = tarfile.TarInfo(f"{top}/{file.path}")
    info.size, info.mtime = file.size, mtime
    return info.tobuf(tarfile.PAX_FORMAT)


def _padding(file: File) -> int:
    return -file.size % tarfile.BLOCKSIZE
