"""Published files as content to download: one of them, or all as an archive."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

from api.ranges import Content
from finlora_core.adapters import archive
from finlora_core.adapters.manifest import File


def one_file(folder: Path, file: File) -> Content:
    return Content(
        size=file.size,
        sha256=file.sha256,
        media_type="application/octet-stream",
        filename=file.path,
        read=partial(archive.read, folder / file.path),
    )


def all_files(folder: Path, files: Sequence[File], *, top: str, at: datetime) -> Content:
    """A tar archive with the folder `top` in it, dated `at`: the same bytes each time."""

    def read(start: int, end: int) -> Iterator[bytes]:
        return archive.stream(folder, files, top=top, at=at, start=start, end=end)

    return Content(
        size=archive.size(files, top=top),
        sha256=archive.sha256(files, top=top, at=at),
        media_type="application/x-tar",
        filename=f"{top}.tar",
        read=read,
    )
