"""What an attempt's processes tell the worker through files.

A growing file is read on from where its content is safely stored; a small one is replaced as a
whole.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Tail:
    """The unread end of a file that another process writes to, in whole lines."""

    path: Path
    position: int = 0
    """Bytes that `commit` has confirmed."""
    _next: int = 0

    def read(self, limit: int = 256 * 1024, *, final: bool = False) -> str:
        """Up to `limit` bytes of new whole lines; the same again until `commit`.

        `final`: nobody writes any more, so a last line without its break counts as well.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.position)
                new = file.read(limit)
        except FileNotFoundError:
            return ""
        # a line longer than the limit is taken in pieces, or the file would never move on
        all_of_it = b"\n" not in new if len(new) == limit else final
        whole = new if all_of_it else new[: new.rfind(b"\n") + 1]
        self._next = self.position + len(whole)
        return whole.decode("utf-8", errors="replace")

    def commit(self) -> None:
        """What was read has been stored."""
        self.position = max(self.position, self._next)


def read_json_lines(text: str) -> list[dict[str, Any]]:
    """The objects in the lines. A line that holds none is left out: a full disk cuts lines,
    and a training process cannot be trusted to write what it should."""
    parsed = (_object(line) for line in text.splitlines())
    return [content for content in parsed if content is not None]


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file that is replaced as a whole; None when there is none."""
    try:
        return _object(path.read_text(errors="replace"))
    except OSError:
        return None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Replaced as a whole: a reader sees the old content or the new."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    fresh.write_text(json.dumps(content))
    fresh.replace(path)


def _object(text: str) -> dict[str, Any] | None:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
