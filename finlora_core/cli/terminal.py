"""What commands share: how they print, how they fail, which service they talk to."""

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from finlora_core.access.first_key import read_key
from finlora_core.client import Client
from finlora_core.db.session import Database
from finlora_core.errors import FinLoRAError
from finlora_core.settings import Settings, load_settings
from finlora_core.stack import Stack

INTERRUPTED = 130
"""The exit status of what Ctrl-C ended, as shells have it: 128 and SIGINT's number."""

# what is printed may hold brackets and colons of its own: nothing of it is markup
console = Console(highlight=False, markup=False, emoji=False)
errors = Console(highlight=False, markup=False, emoji=False, stderr=True)

API_KEY = "FINLORA_API_KEY"
"""The one variable that is the client's and no setting of the service."""

Port = Annotated[int | None, typer.Option(help="Port of the API. Default: 8000.")]
Home = Annotated[
    Path | None, typer.Option(help="Folder for all state. Default: $FINLORA_HOME or ~/.finlora.")
]
Url = Annotated[
    str | None,
    typer.Option(
        envvar="FINLORA_URL",
        show_envvar=False,
        help="The service. Default: $FINLORA_URL, or the one of `finlora up` on this machine.",
    ),
]


class Commands(TyperGroup):
    """Whatever a command raises on purpose is said in a line on stderr; exit status 1."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FinLoRAError as error:
            errors.print(f"{error.code}: ", style="red", end="")
            errors.print(str(error), soft_wrap=True)
            raise typer.Exit(1) from None


def say(text: str = "", style: str | None = None) -> None:
    """A line, however long: what reads it may be a program."""
    console.print(text, style=style, soft_wrap=True)


def say_table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as they must be, so that an id is never cut."""
    texts = [[str(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for number, row in enumerate(texts):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        say("  ".join(cells).rstrip(), style="bold" if number == 0 else None)


def say_facts(head: str, facts: Mapping[str, object]) -> None:
    """Those that there are, a line each, below the head."""
    say(head, style="bold")
    for name, value in facts.items():
        if value:
            say(f"  {name:<10} {value}")


def settings_of(port: int | None = None, home: Path | None = None) -> Settings:
    given = {"port": port, "home": home}
    return load_settings(**{key: value for key, value in given.items() if value is not None})


@contextmanager
def opened_database() -> Iterator[Database]:
    """That of this machine's settings: who can reach it needs no key."""
    database = Database.connect(load_settings().database)
    yield database
    database.close()


def connect(url: str | None) -> Client:
    """To the service at `url`, or to the one that `finlora up` starts here.

    With FINLORA_API_KEY; else, and only to the service here, with the key that is in its home.
    """
    settings = load_settings()
    here = Stack(settings).url
    target = here if url is None else url if "://" in url else f"http://{url}"
    key = os.environ.get(API_KEY) or (read_key(settings) if target == here else None)
    return Client(target, key)


def stop_on_signals() -> None:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt; a background shell ignores SIGINT."""
    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, _interrupt_once)


def _interrupt_once(signum: int, frame: FrameType | None) -> None:
    """Once: a second one must not cut short the stopping of what was started."""
    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, signal.SIG_IGN)
    raise KeyboardInterrupt
