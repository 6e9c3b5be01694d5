"""Watch a run of any kind until it ends, or until Ctrl-C."""

from collections.abc import Callable, Mapping
from typing import Any

import typer

from finlora_core.cli.progress import reporting, run_words
from finlora_core.cli.terminal import INTERRUPTED, console, errors, say
from finlora_core.client import Client, kind_of
from finlora_core.runs.kind import RunKind


def follow(
    client: Client, run: Mapping[str, Any], check: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """The run when it has ended, its progress shown until then."""
    with reporting(console, run["name"]) as report:

        def show(seen: dict[str, Any]) -> None:
            check()
            report(*run_words(seen))

        return client.wait(run["id"], show)


def say_left(client: Client, run: Mapping[str, Any]) -> None:
    """After Ctrl-C: it goes on in its service."""
    here = f"{run['id']} --url {client.url}"
    kind = kind_of(run["id"])
    say(f"\nNot watched any more; the {kind.word} goes on.")
    say(f"To watch it: finlora logs {here} --follow")
    if kind is not RunKind.TRAINING:
        say(f"To see its results: finlora status {here}")
    say(f"To stop it: finlora cancel {here}")


def watch(client: Client, made: Mapping[str, Any]) -> dict[str, Any]:
    """Until it has succeeded; else what went wrong is said, and the command ends."""
    try:
        ended = follow(client, made)
    except KeyboardInterrupt:
        say_left(client, made)
        raise typer.Exit(INTERRUPTED) from None
    if ended["status"] != "succeeded":
        say_failure(ended)
        raise typer.Exit(1)
    return ended


def say_failure(run: Mapping[str, Any]) -> None:
    error = run["error"] or {"code": run["status"], "hint": "", "log_tail": ""}
    if error["log_tail"]:
        errors.print(error["log_tail"].rstrip(), soft_wrap=True)
    errors.print(f"{error['code']}: ", style="red", end="")
    errors.print(f"{run['name']} ({run['id']}) {run['status']}. {error['hint']}", soft_wrap=True)
