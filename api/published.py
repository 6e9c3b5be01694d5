"""Published files as content to download: one of them, or all as an archive."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from api.ranges import Content
from finlora_core.adapters import archive
from finlora_core.adapters.manifest import File
from finlora_core.adapters.store import Store


def one_file(store: Store, id: str, file: File) -> Content:
    """Raises the store's `missing`."""
    folder = store.require(id, [file])
    return Content(
        size=file.size,
        sha256=file.sha256,
        media_type="application/octet-stream",
        filename=file.path,
        read=partial(archive.read, folder / file.path),
    )


def all_files(
    store: Store, id: str, listed: Iterable[Mapping[str, Any]], *, top: str, at: datetime
) -> Content:
    """A tar archive with the folder `top` in it, dated `at`: the same bytes each time.

    `listed` is what its row says of its files. Raises the store's `missing`."""
    files = [File.model_validate(file) for file in listed]
    folder = store.require(id, files)

    def read(start: int, end: int) -> Iterator[bytes]:
        return archive.stream(folder, files, top=top, at=at, start=start, end=end)

    return Content(
        size=archive.size(files, top=top),
        sha256=archive.sha256(files, top=top, at=at),
        media_type="application/x-tar",
        filename=f"{top}.tar",
        read=read,
    )
