"""Find what a run config names: an upload of its owner's, or a file inside the allowed roots."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from finlora_core.datasets.files import DATASET_ID, DatasetFiles
from finlora_core.errors import DatasetNotFound
from finlora_core.settings import Settings

FINLORA_SCRIPT_DIR = "lora"
"""FinLoRA's finetune.py runs in this folder, so its paths start with `../data/`."""


def find_dataset(written: str, owner: str, settings: Settings) -> Path:
    """The real path of the dataset `written` in a run config of the owner's.

    Raises `DatasetNotFound`.
    """
    if not DATASET_ID.fullmatch(written):
        return locate_dataset(written, settings.datasets)
    path = DatasetFiles(settings.uploads).path(owner, written)
    if not path.is_file():
        raise no_such_upload(written)
    return path


def no_such_upload(id: str) -> DatasetNotFound:
    return DatasetNotFound(f"there is no uploaded dataset {id!r}; POST /datasets makes one")


def locate_dataset(written: str, roots: Sequence[Path]) -> Path:
    """The real path of the dataset `written` in a run config.

    Raises `DatasetNotFound`, naming the path as written. A file outside the roots and
    a file that is not there get the same answer: no probing of the server's disk.
    """
    if "://" not in written:
        for root in roots:
            for candidate in (
                os.path.join(root, written),
                os.path.join(root, FINLORA_SCRIPT_DIR, written),
            ):
                if (file := _file_inside(candidate, root)) is not None:
                    return file
    raise DatasetNotFound(_explain(written, roots))


def _file_inside(candidate: str, root: Path) -> Path | None:
    """After symlinks. An absolute path stays itself: joining it to a root drops the root."""
    try:
        file, folder = _place(candidate), _place(root)
    except (OSError, ValueError):  # ValueError: a NUL in it
        return None
    is_inside = file.path.startswith(os.path.join(folder.path, ""))
    return Path(file.path) if file.is_file and is_inside else None


class _Place(NamedTuple):
    path: str
    is_file: bool


def _place(path: str | Path) -> _Place:
    """Where the kernel comes to by this path. `os.path.realpath` follows each part of it by
    itself, which takes three times as long, and every POST of a run asks. Raises `OSError`."""
    opened = os.open(path, os.O_PATH)
    try:
        is_file = stat.S_ISREG(os.fstat(opened).st_mode)
        return _Place(os.readlink(f"/proc/self/fd/{opened}"), is_file)
    finally:
        os.close(opened)


def _explain(written: str, roots: Sequence[Path]) -> str:
    where = ", ".join(str(root) for root in roots)
    return (
        f"dataset {written!r} is not a file inside the dataset roots ({where}); "
        "put it there, or add its folder to FINLORA_DATASET_ROOTS"
    )
