"""Where adapters lie on disk.

    lora_adaptors/
      8bits_r8/sentiment -> ../.store/adp_…   the stable path: always the newest version
      owners/ann/8bits_r8/…                   the same of an owner who is not the default one
      .store/adp_…/                           one folder a version, never changed
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
from pathlib import Path

from finlora_core.access.owners import DEFAULT_OWNER
from finlora_core.adapters.manifest import PUBLISHED, File
from finlora_core.errors import AdapterFilesMissing

LINK, INTENT = ".link", ".intent"
OWNERS = "owners"
CHUNK = 1024 * 1024  # bytes


class AdapterStore:
    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def is_there(self) -> bool:
        """Whether anything has been published here: false too while a disk is not mounted."""
        return (self._root / ".store").is_dir()

    def folder(self, adapter_id: str) -> Path:
        return self._root / ".store" / adapter_id

    def stable_path(self, owner: str, variant: str, name: str) -> Path:
        """`8bits_r8/NAME`, where FinLoRA has it; other owners' lie in a folder of their own."""
        own = self._root if owner == DEFAULT_OWNER else self._root / OWNERS / owner
        return own / variant / name

    def require(self, adapter_id: str, files: Iterable[File]) -> Path:
        """The version's folder. Raises `AdapterFilesMissing` when a file is not there whole."""
        folder = self.folder(adapter_id)
        for file in files:
            path = folder / file.path
            if not path.is_file() or path.stat().st_size != file.size:
                raise AdapterFilesMissing(
                    f"adapter {adapter_id!r} is listed, but {file.path} is not in the store; "
                    "restore the adapters folder from a backup, or train it again"
                )
        return folder

    def stage(self, adapter_id: str, source: Path) -> Path:
        """Copy what is to be published from Axolotl's output folder `source`."""
        staged = self._staging / adapter_id
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        for name in PUBLISHED:
            _copy_plain(source / name, staged / name)
        return staged

    def publish(self, adapter_id: str, staged: Path) -> Path:
        """Make the staged folder appear, whole, at its final place."""
        _fsync_all([*staged.iterdir(), staged])
        final = self.folder(adapter_id)
        final.parent.mkdir(parents=True, exist_ok=True)
        staged.rename(final)
        _fsync_all([final.parent])
        return final

    def discard(self, adapter_id: str) -> None:
        """Remove a version that no row lists: its attempt lost the run after publishing."""
        shutil.rmtree(self.folder(adapter_id), ignore_errors=True)

    def discard_staged(self, adapter_id: str) -> None:
        shutil.rmtree(self._staging / adapter_id, ignore_errors=True)

    def versions(self) -> Sequence[Path]:
        """Every folder named after a version, also those that are being written."""
        places = (self._root / ".store", self._staging)
        return [
            folder
            for place in places
            for folder in _entries(place)
            if folder.suffix not in (LINK, INTENT)
        ]

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
        return Path(os.path.relpath(self._root / ".store", stable.parent))

    @property
    def _staging(self) -> Path:
        return self._root / ".staging"

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
