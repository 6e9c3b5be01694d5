"""Where uploaded datasets lie on disk.

    uploads/<owner>/
      dataset_….jsonl        whole, never changed
      .dataset_….part        being received; or beside a whole file: being listed or removed
      .upload_…/part_…       parts of an upload that is not completed yet

The whole file and its `.part` are two names of the same bytes. The second one stays until the
database has listed the dataset, or has forgotten it: an old `.part` says that somebody died on
the way, and the database says which way it is (`datasets.sweep`).
"""

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from finlora_core.errors import DatasetFileMissing, InsufficientStorage, UploadTooLarge

DATASET_ID = re.compile(r"dataset_[0-9a-f]{20}")
PART_ID = re.compile(r"part_[0-9a-f]{20}")

MIB = 1024 * 1024
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class DatasetFiles:
    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, owner: str, id: str) -> Path:
        return self._root / owner / f"{id}.jsonl"

    def require(self, owner: str, id: str) -> Path:
        """Raises `DatasetFileMissing`."""
        path = self.path(owner, id)
        if not path.is_file():
            raise DatasetFileMissing(
                f"dataset {id!r} is listed, but its file is not there; restore the uploads "
                "folder from a backup, or upload it again"
            )
        return path

    def receive(self, owner: str, *, limit: int) -> "Incoming":
        """A new dataset's file, of `limit` bytes at most."""
        return Incoming(self.path(owner, f"dataset_{uuid.uuid4().hex[:20]}"), limit)

    def receive_part(self, owner: str, upload_id: str, *, limit: int) -> "Incoming":
        """A new part's file, of `limit` bytes at most."""
        return Incoming(self.parts(owner, upload_id) / f"part_{uuid.uuid4().hex[:20]}", limit)

    @contextmanager
    def removing(self, owner: str, id: str) -> Iterator[None]:
        """Inside, the database forgets the dataset; then its file goes."""
        final = self.path(owner, id)
        part = _part_of(final)
        with suppress(FileNotFoundError, FileExistsError):
            os.link(final, part)
        try:
            yield
        except SQLAlchemyError:
            raise  # whether it is forgotten shows later: the sweep will know
        except Exception:
            part.unlink(missing_ok=True)
            raise
        final.unlink(missing_ok=True)
        part.unlink(missing_ok=True)

    def parts(self, owner: str, upload_id: str) -> Path:
        """The folder of an upload's parts."""
        return self._root / owner / f".{upload_id}"

    def size_of_parts(self, owner: str, upload_id: str) -> int:
        """Bytes."""
        return sum(part.stat().st_size for part in self.parts(owner, upload_id).glob("part_*"))

    def discard_parts(self, owner: str, upload_id: str) -> None:
        shutil.rmtree(self.parts(owner, upload_id), ignore_errors=True)

    def unsettled(self) -> Iterator[tuple[str, Path]]:
        """Each `.part`, and the id of the dataset that it is, or was to become."""
        for part in self._root.glob("*/.dataset_*.part"):
            yield part.name.removeprefix(".").removesuffix(".part"), part

    def settle(self, part: Path, *, listed: bool) -> None:
        """What a crash left half done is done: with the dataset listed, or without it."""
        if not listed:
            part.with_name(f"{part.name.removeprefix('.').removesuffix('.part')}.jsonl").unlink(
                missing_ok=True
            )
        part.unlink(missing_ok=True)


class Incoming:
    """A file while it is received. A context manager: what is not kept is gone at its end."""

    def __init__(self, final: Path, limit: int) -> None:
        self.path = _part_of(final)
        self.size = 0
        self._final = final
        self._limit = limit
        with _or_full():
            final.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("xb")

    @property
    def id(self) -> str:
        return self._final.stem

    def write(self, data: bytes) -> None:
        """Raises `UploadTooLarge`, `InsufficientStorage`."""
        self.size += len(data)
        require_fits(self.size, self._limit)
        with _or_full():
            self._file.write(data)

    def finish(self) -> None:
        """All of it has come, and is on disk. Raises `InsufficientStorage`."""
        with _or_full():
            self._file.flush()
            os.fsync(self._file.fileno())
        self._file.close()

    def publish(self) -> None:
        """Give it its place, before the database lists it: files before rows."""
        with _or_full():
            os.link(self.path, self._final)
            _sync(self._final.parent)

    def withdraw(self) -> None:
        """Another one is listed in its stead."""
        self._final.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # what is not written yet need not be
            self._file.close()
        if isinstance(error, SQLAlchemyError):
            return  # the commit's answer may be lost: the sweep will know
        if error is not None:
            self._final.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


def require_fits(size: int, limit: int) -> None:
    """Raises `UploadTooLarge`. Both in bytes."""
    if size > limit:
        raise UploadTooLarge(
            f"more than {limit} bytes, the most that may come here (FINLORA_MAX_UPLOAD_MIB)"
        )


def _part_of(final: Path) -> Path:
    return final.with_name(f".{final.stem}.part")


@contextmanager
def _or_full() -> Iterator[None]:
    """Raises `InsufficientStorage` for a disk, or a quota, that is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise InsufficientStorage(
            "the disk is full; nothing was stored. Free some space, then send it again"
        ) from None


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
