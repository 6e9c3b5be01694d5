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
        known = self.recall(path, form)
        if known is not None:
            return known
        try:
            identity = _identity(path)
        except OSError as error:
            raise InvalidDataset(f"{shown_as} cannot be read: {error.strerror}") from error
        found = check_dataset(path, form, shown_as=shown_as)
        self._known[path, form] = identity, found
        return found

    def recall(self, path: Path, form: PromptFormat) -> DatasetFacts | None:
        """What is known of the file as it is; None where it must be read for that."""
        known = self._known.get((path, form))
        try:
            return known[1] if known and known[0] == _identity(path) else None
        except OSError:
            return None


def _identity(path: Path) -> _Identity:
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns
