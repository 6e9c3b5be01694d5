"""Remember what a dataset was found to be, so that 39 runs on one file read it once."""

from pathlib import Path

from finlora_core.datasets.check import DatasetFacts, check_dataset
from finlora_core.errors import InvalidDataset
from finlora_core.runs.config import PromptFormat

_Identity = tuple[int, int, int]


class DatasetChecker:
    """Checks a file the first time and whenever its size, inode or time has changed."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, PromptFormat], tuple[_Identity, DatasetFacts]] = {}

    def facts(self, path: Path, form: PromptFormat, *, shown_as: str) -> DatasetFacts:
        """Raises `InvalidDataset`, as `check_dataset` does."""
        try:
            identity = _identity(path)
        except OSError as error:
            raise InvalidDataset(f"{shown_as} cannot be read: {error.strerror}") from error
        key = path, form
        if key not in self._known or self._known[key][0] != identity:
            self._known[key] = identity, check_dataset(path, form, shown_as=shown_as)
        return self._known[key][1]


def _identity(path: Path) -> _Identity:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
