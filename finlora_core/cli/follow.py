"""Watch a run or an evaluation until it ends, or until Ctrl-C."""

from collections.abc import Callable, Mapping
from typing import Any

from finlora_core.cli.progress import reporting, run_words
from finlora_core.cli.terminal import console, errors, say
from finlora_core.client import Client, is_evaluation


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
    what = "evaluation" if is_evaluation(run["id"]) else "run"
    say(f"\nNot watched any more; the {what} goes on.")
    say(f"To watch it: finlora logs {here} --follow")
    if is_evaluation(run["id"]):
        say(f"To see its results: finlora status {here}")
    say(f"To stop it: finlora cancel {here}")


def say_failure(run: Mapping[str, Any]) -> None:
    error = run["error"] or {"code": run["status"], "hint": "", "log_tail": ""}
    if error["log_tail"]:
        errors.print(error["log_tail"].rstrip(), soft_wrap=True)
    errors.print(f"{error['code']}: ", style="red", end="")
    errors.print(f"{run['name']} ({run['id']}) {run['status']}. {error['hint']}", soft_wrap=True)
