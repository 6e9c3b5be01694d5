"""Where adapters lie on disk.

    lora_adaptors/
      8bits_r8/sentiment -> ../.store/adp_…   the stable path: always the newest version
      .store/adp_…/                           one folder a version, never changed
      .staging/adp_…/                         being written; renamed when it is whole

A folder is renamed into place only when every file is on disk (fsync), so a version is
either whole or not there. A link is switched by rename too.
"""

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from finlora_core.adapters.manifest import PUBLISHED, File
from finlora_core.errors import AdapterFilesMissing


class AdapterStore:
    def __init__(self, root: Path) -> None:
        self._root = root

    def folder(self, adapter_id: str) -> Path:
        return self._root / ".store" / adapter_id

    def stable_path(self, variant: str, name: str) -> Path:
        return self._root / variant / name

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
        staged = self._root / ".staging" / adapter_id
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        for name in PUBLISHED:
            if (source / name).is_file() and not (source / name).is_symlink():
                shutil.copyfile(source / name, staged / name)
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

    def versions(self) -> Sequence[Path]:
        """Every folder named after a version, also those that are being written."""
        places = (self._root / ".store", self._root / ".staging")
        return [folder for place in places if place.is_dir() for folder in place.iterdir()]

    def link(self, variant: str, name: str, adapter_id: str) -> Path:
        """Point the stable path at a version, in one step."""
        stable = self.stable_path(variant, name)
        stable.parent.mkdir(parents=True, exist_ok=True)
        fresh = stable.with_name(f".{name}.{adapter_id}")
        fresh.unlink(missing_ok=True)
        fresh.symlink_to(Path("..") / ".store" / adapter_id, target_is_directory=True)
        try:
            fresh.replace(stable)
        except OSError:  # a folder of the user's own has this name
            fresh.unlink()
            raise
        return stable


def _fsync_all(paths: Iterable[Path]) -> None:
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
