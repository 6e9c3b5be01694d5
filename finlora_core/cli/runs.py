"""Runs of a service, evaluations too: look at them, stop them, go on with them."""

import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from finlora_core.cli.evaluate import say_evaluation
from finlora_core.cli.merging import say_merge
from finlora_core.cli.progress import run_words
from finlora_core.cli.terminal import INTERRUPTED, Url, connect, say, say_facts, say_table
from finlora_core.client import TERMINAL, Client, kind_of
from finlora_core.errors import UnknownName
from finlora_core.runs.kind import RunKind
from finlora_core.suggest import suggest

Run = Annotated[
    str,
    typer.Argument(
        help="A run's id, or a name: its newest run; or the id of an evaluation or merge."
    ),
]

NEWEST = 1000
"""Runs among which a name is looked for that does not exist."""

FOLLOW_SECONDS = 1.0


def status(
    run: Annotated[
        str | None,
        typer.Argument(help="A run's id, or a name; or the id of an evaluation or merge."),
    ] = None,
    url: Url = None,
) -> None:
    """Show one run, by id or by name (its newest run), or the newest twenty.

    Of an evaluation, by its id: its results, too.

    \b
    finlora status
    finlora status sentiment_llama_3_1_8b_8bits_r8
    finlora status eval_1c0fd2a98b4e4f7f9d11
    """
    with connect(url) as client:
        if run is not None:
            _say_found(client, _find(client, run))
            return
        rows = [
            (each["id"], each["name"], each["variant"], run_words(each)[2])
            for each in client.list_runs(limit=20)
        ]
    say_table(("run", "name", "variant", "status"), rows)


def logs(
    run: Run,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the run ends.")] = False,
    url: Url = None,
) -> None:
    """Print the log of a run, by id or by name (its newest run), or of an evaluation.

    \b
    finlora logs run_8f0c1d0c4a8b4e2f9d11
    finlora logs sentiment_llama_3_1_8b_8bits_r8 --follow
    """
    with connect(url) as client:
        try:
            _print_log(client, _find(client, run)["id"], follow=follow)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


def cancel(run: Run, url: Url = None) -> None:
    """Stop a run, or an evaluation, for good.

    \b
    finlora cancel run_8f0c1d0c4a8b4e2f9d11
    """
    with connect(url) as client:
        _say_wish(client.cancel_run(_find(client, run)["id"]))


def pause(run: Run, url: Url = None) -> None:
    """Let a run save a checkpoint and free its GPU, until `finlora resume`.

    \b
    finlora pause run_8f0c1d0c4a8b4e2f9d11
    """
    with connect(url) as client:
        _say_wish(client.pause_run(_find(client, run)["id"]))


def resume(run: Run, url: Url = None) -> None:
    """Queue a paused run again; it goes on at the step where it was paused.

    \b
    finlora resume run_8f0c1d0c4a8b4e2f9d11
    """
    with connect(url) as client:
        _say_wish(client.resume_run(_find(client, run)["id"]))


def retry(run: Run, url: Url = None) -> None:
    """Queue a new run of the same config, for one that failed or was cancelled.

    \b
    finlora retry run_8f0c1d0c4a8b4e2f9d11
    """
    with connect(url) as client:
        again = client.retry_run(_find(client, run)["id"])
    say(
        f"{again['id']} ({again['name']}): {run_words(again)[2]}; tries {again['parent_id']} again"
    )


def _find(client: Client, wanted: str) -> dict[str, Any]:
    """By id, or the newest run of that name. Raises `UnknownName` with close ones."""
    if kind_of(wanted) is not RunKind.TRAINING:
        return client.get_run(wanted)
    named = client.list_runs(name=wanted, limit=1)
    if named:
        return named[0]
    if wanted.startswith("run_"):
        return client.get_run(wanted)
    names = list(dict.fromkeys(run["name"] for run in client.list_runs(limit=NEWEST)))
    raise UnknownName(f"{client.url} has no run {wanted!r}; {suggest(wanted, names)}")


def _say_found(client: Client, run: Mapping[str, Any]) -> None:
    match kind_of(run["id"]):
        case RunKind.EVALUATION:
            say_evaluation(client, run)
        case RunKind.MERGE:
            say_merge(run)
        case RunKind.TRAINING:
            _say_run(run)


def _say_run(run: Mapping[str, Any]) -> None:
    config, error = run["config"], run["error"]
    rows = {
        "name": run["name"],
        "status": run_words(run)[2],
        "variant": run["variant"],
        "base model": config["base_model"],
        "dataset": f"{config['dataset_path']}, {run['dataset']['rows']} rows",
        "created": run["created_at"],
        "started": run["started_at"],
        "finished": run["finished_at"],
        "tries": run["parent_id"],
        "adapter": run["adapter_id"],
        "error": error and f"{error['code']}: {error['hint']}",
    }
    say_facts(run["id"], rows)


def _say_wish(run: Mapping[str, Any]) -> None:
    say(f"{run['id']} ({run['name']}): {run_words(run)[2]}")


def _print_log(client: Client, run_id: str, *, follow: bool) -> None:
    offset, ended = 0, not follow
    while True:
        text, end = client.read_log(run_id, offset)
        sys.stdout.write(text)
        sys.stdout.flush()
        if end > offset:
            offset = end
        elif ended:  # nothing can come after this
            return
        else:
            ended = client.get_run(run_id)["status"] in TERMINAL
            if not ended:
                time.sleep(FOLLOW_SECONDS)
