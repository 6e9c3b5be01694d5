"""Where adapters and merged models lie on disk.

    lora_adaptors/
      8bits_r8/sentiment -> ../.store/adp_…   the stable path: always the newest version
      owners/ann/8bits_r8/…                   the same of an owner who is not the default one
      .store/adp_…/                           one folder a version, never changed
      .merged/merge_…/                        the same of a model that an adapter was merged into
      .staging/adp_…/                         being written; renamed when it is whole
      .staging/….link                         a link being switched, by rename too
      .staging/adp_….intent                   an import under way: whose, so that it can be swept

A folder is renamed into place only when every file is on disk (fsync), so a version is
either whole or not there.
"""

import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from finlora_core.access.owners import DEFAULT_OWNER
from finlora_core.adapters.manifest import PUBLISHED, File
from finlora_core.errors import AdapterFilesMissing, Gone, MergedFilesMissing

LINK, INTENT = ".link", ".intent"
OWNERS = "owners"
CHUNK = 1024 * 1024  # bytes


class Store:
    """Folders of files that appear whole, and never change: a row lists each."""

    place: ClassVar[str]
    kind: ClassVar[str]
    remedy: ClassVar[str]
    missing: ClassVar[type[Gone]]

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def is_there(self) -> bool:
        """Whether anything has been published here: false too while a disk is not mounted."""
        return (self._root / self.place).is_dir()

    def folder(self, id: str) -> Path:
        return self._root / self.place / id

    def require(self, id: str, files: Iterable[File]) -> Path:
        """Its folder. Raises `missing` when a file is not there whole."""
        folder = self.folder(id)
        for file in files:
            path = folder / file.path
            if not path.is_file() or path.stat().st_size != file.size:
                raise self.missing(
                    f"{self.kind} {id!r} is listed, but {file.path} is not in the store; "
                    f"restore the adapters folder from a backup, or {self.remedy} again"
                )
        return folder

    def publish(self, id: str, staged: Path) -> Path:
        """Make the staged folder appear, whole, at its final place."""
        _fsync_all([*staged.iterdir(), staged])
        final = self.folder(id)
        final.parent.mkdir(parents=True, exist_ok=True)
        staged.rename(final)
        _fsync_all([final.parent])
        return final

    def discard(self, id: str) -> None:
        """Remove what no row lists: its attempt lost the run after publishing, or its row has
        been deleted."""
        shutil.rmtree(self.folder(id), ignore_errors=True)

    def discard_staged(self, id: str) -> None:
        shutil.rmtree(self._staging / id, ignore_errors=True)

    def versions(self) -> Sequence[Path]:
        """Every folder named after an id, also those that are being written."""
        places = (self._root / self.place, self._staging)
        return [
            folder
            for place in places
            for folder in _entries(place)
            if folder.suffix not in (LINK, INTENT)
        ]

    def _fresh(self, id: str) -> Path:
        """An empty folder to write what is to be published."""
        staged = self._staging / id
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        return staged

    @property
    def _staging(self) -> Path:
        return self._root / ".staging"


class MergedStore(Store):
    """Merged models, beside the adapters."""

    place = ".merged"
    kind = "merged model"
    remedy = "merge it"
    missing = MergedFilesMissing

    def stage(self, id: str, source: Path, names: Iterable[str]) -> Path:
        """Take these files from `source`, which nothing writes to any more: they are moved
        where that is possible, since they may have many GB."""
        staged = self._fresh(id)
        for name in names:
            _move_plain(source / name, staged / name)
        return staged


class AdapterStore(Store):
    place = ".store"
    kind = "adapter"
    remedy = "train it"
    missing = AdapterFilesMissing

    def stable_path(self, owner: str, variant: str, name: str) -> Path:
        """`8bits_r8/NAME`, where FinLoRA has it; other owners' lie in a folder of their own."""
        own = self._root if owner == DEFAULT_OWNER else self._root / OWNERS / owner
        return own / variant / name

    def stage(self, adapter_id: str, source: Path) -> Path:
        """Copy what is to be published from Axolotl's output folder `source`."""
        staged = self._fresh(adapter_id)
        for name in PUBLISHED:
            _copy_plain(source / name, staged / name)
        return staged

    def intend(self, adapter_id: str, owner: str) -> None:
        """Note on disk that `owner` is about to publish what no run stands behind."""
        self._staging.mkdir(parents=True, exist_ok=True)
        note = self._intent(adapter_id)
        note.write_text(owner)
        _fsync_all([note, self._staging])

    def fulfil(self, adapter_id: str) -> None:
        """It is listed now, or has been discarded."""
        self._intent(adapter_id).unlink(missing_ok=True)

    def intents(self, owner: str) -> Iterator[Path]:
        """The notes of what `owner` began to publish; the stem is the adapter's id.

        Also those half written: nothing was published under them yet.
        """
        return (note for note in self._staged(INTENT) if owner.startswith(note.read_text()))

    def half_links(self) -> Iterator[Path]:
        """Links that were made and not put into their place yet."""
        return self._staged(LINK)

    def linked(self, owner: str, variant: str, name: str) -> str | None:
        """The version that the stable path shows; None when there is no link of ours."""
        stable = self.stable_path(owner, variant, name)
        try:
            target = stable.readlink()
        except OSError:
            return None
        return target.name if target.parent == self._versions_from(stable) else None

    def link(self, owner: str, variant: str, name: str, adapter_id: str) -> Path:
        """Point the stable path at a version, in one step."""
        stable = self.stable_path(owner, variant, name)
        stable.parent.mkdir(parents=True, exist_ok=True)
        self._staging.mkdir(exist_ok=True)
        fresh = self._staging / f"{uuid.uuid4().hex}{LINK}"
        target = self._versions_from(stable) / adapter_id
        fresh.symlink_to(target, target_is_directory=True)
        try:
            fresh.replace(stable)
        except OSError:  # a folder of the user's own has this name
            fresh.unlink()
            raise
        return stable

    def _versions_from(self, stable: Path) -> Path:
        """Relative, so that the whole tree can be moved."""
        return Path(os.path.relpath(self._root / self.place, stable.parent))

    def _intent(self, adapter_id: str) -> Path:
        return self._staging / f"{adapter_id}{INTENT}"

    def _staged(self, suffix: str) -> Iterator[Path]:
        return (path for path in _entries(self._staging) if path.suffix == suffix)


def _entries(folder: Path) -> Iterable[Path]:
    return list(folder.iterdir()) if folder.is_dir() else ()


def _copy_plain(source: Path, target: Path) -> None:
    """A plain file, and nothing that is put into its place meanwhile: no link is followed."""
    try:
        with open(source, "rb", opener=_plain_only) as opened, target.open("wb") as copy:
            shutil.copyfileobj(opened, copy, CHUNK)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise


def _move_plain(source: Path, target: Path) -> None:
    """As `_copy_plain`; a file that has another name elsewhere is copied too."""
    try:
        found = source.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        with suppress(OSError):  # on another disk
            source.rename(target)
            return
    _copy_plain(source, target)


def _plain_only(path: str, flags: int) -> int:
    """For open(): waits for nobody at the other end of a pipe."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.ENXIO, "not a plain file", path)


def _fsync_all(paths: Iterable[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
