"""Progress for people: a live line in a terminal, a plain one every few seconds elsewhere."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

PLAIN_SECONDS = 5.0
MB = 1e6


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


@contextmanager
def reporting_bytes(console: Console, title: str) -> Iterator[Callable[[int, int], None]]:
    """For what is counted in bytes: how many of how many, and how many a second."""
    started, here = time.monotonic(), None
    with reporting(console, title) as report:

        def show(done: int, size: int) -> None:
            nonlocal here
            here = done if here is None else here  # what was here already has no speed
            words = f"{done / MB:.1f} of {size / MB:.1f} MB"
            speed = (done - here) / MB / max(time.monotonic() - started, 0.001)
            report(done, size, f"{words}  {speed:.0f} MB/s" if done > here else words)

        yield show


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


def run_words(run: Mapping[str, Any]) -> tuple[int, int | None, str]:
    """Step, steps in all and a sentence for what GET /runs/{id} or /evaluations/{id} answered."""
    progress = run["progress"]
    state = _state(run)
    if progress is None:
        return 0, None, state
    done, total, unit = _counted(progress)
    words = f"{state}  {unit} {done}/{total} ({progress['percent']:.0f} %)"
    if progress.get("loss") is not None:
        words += f"  loss {progress['loss']:.3f}"
    if run["status"] == "running" and progress["eta_seconds"] is not None:
        words += f"  {duration(progress['eta_seconds'])} left"
    return done, total, words


def _counted(progress: Mapping[str, Any]) -> tuple[int, int, str]:
    """A training counts steps, an evaluation rows."""
    if "rows" in progress:
        return progress["rows"], progress["all_rows"], "row"
    return progress["step"], progress["max_steps"], "step"


def duration(seconds: float) -> str:
    """As one says it: `42 s`, `3 min 05 s`, `2 h 07 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def _state(run: Mapping[str, Any]) -> str:
    if run["status"] == "queued":
        return _queued(run)
    if run["status"] != "running":
        return str(run["status"])
    if run["cancel_requested"]:
        return "being cancelled"
    if run.get("pause_requested"):  # evaluations are not paused
        return "being paused"
    return str(run["phase"] or "starting")


def _queued(run: Mapping[str, Any]) -> str:
    ahead = run["queue_position"]
    if run.get("not_before") is not None:
        waits = (datetime.fromisoformat(run["not_before"]) - datetime.now(UTC)).total_seconds()
        if waits > 1:
            return f"queued, tried again in {duration(waits)}"
    return f"queued, {ahead} ahead" if ahead else "queued, next"


def _bar(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[words]}", markup=False),
        console=console,
    )
