"""Progress for people: a live line in a terminal, a line every few seconds elsewhere."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

PLAIN_SECONDS = 5.0


class Report(Protocol):
    def __call__(self, done: int, total: int | None, words: str) -> None:
        """`done` of `total` steps; no total means that it is not known yet."""


@contextmanager
def reporting(console: Console, title: str) -> Iterator[Report]:
    if console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task(title, words="", total=None)
            yield lambda done, total, words: bar.update(
                task, completed=done, total=total, words=words
            )
    else:
        yield _PlainLines(console, title)


class _PlainLines:
    """The first report, the last one, and one every few seconds between."""

    def __init__(self, console: Console, title: str) -> None:
        self._console = console
        self._title = title
        self._next = 0.0
        self._last = ""

    def __call__(self, done: int, total: int | None, words: str) -> None:
        line = f"  {self._title}: {words}"
        due = time.monotonic() >= self._next or done == total
        if due and line != self._last:
            self._console.print(line, soft_wrap=True)
            self._last = line
            self._next = time.monotonic() + PLAIN_SECONDS


def run_words(run: dict[str, Any]) -> tuple[int, int | None, str]:
    """Step, steps in all and a sentence for what GET /runs/{id} answered."""
    progress = run["progress"]
    if progress is None:
        return 0, None, run["phase"] or run["status"]
    words = f"step {progress['step']}/{progress['max_steps']}"
    if progress["loss"] is not None:
        words += f"  loss {progress['loss']:.3f}"
    if run["status"] == "running" and progress["eta_seconds"] is not None:
        words += f"  {progress['eta_seconds']:.0f} s left"
    return progress["step"], progress["max_steps"], words


def _bar(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[words]}"),
        console=console,
    )
