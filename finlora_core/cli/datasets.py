"""Datasets of a service: upload one, list them, delete one."""

from pathlib import Path
from typing import Annotated

import typer

from finlora_core.cli.terminal import Commands, Url, connect, say, say_table

app = typer.Typer(cls=Commands, no_args_is_help=True, help="Upload, list and delete datasets.")

MB = 1_000_000
NEWEST = 1000
"""Datasets that are listed."""


@app.command()
def upload(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="JSON lines.")],
    prompt_format: Annotated[
        str | None, typer.Option(help="instruction, chat or alpaca. Default: what its rows say.")
    ] = None,
    url: Url = None,
) -> None:
    """Upload a dataset; what it prints can be the dataset_path of a run config.

    \b
    finlora datasets upload train.jsonl
    """
    with connect(url) as client:
        dataset = client.upload_dataset(file, prompt_format)
    say(f"{dataset['id']}  {dataset['rows']} rows, {dataset['prompt_format']}")


@app.command(name="list")
def list_datasets(url: Url = None) -> None:
    """List uploaded datasets, the newest first."""
    with connect(url) as client:
        found = client.list_datasets(limit=NEWEST)
    rows = [
        (d["id"], d["name"], d["rows"], f"{d['bytes'] / MB:.1f} MB", d["prompt_format"],
         d["created_at"][:16])
        for d in found
    ]  # fmt: skip
    say_table(("dataset", "name", "rows", "size", "form", "created"), rows)


@app.command()
def delete(
    dataset_id: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")],
    url: Url = None,
) -> None:
    """Delete a dataset that no run needs any more."""
    with connect(url) as client:
        client.delete_dataset(dataset_id)
    say(f"{dataset_id} is deleted")
