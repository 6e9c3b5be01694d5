"""Judge adapters and base models, and look at what came of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from finlora_core.cli.adapters import Variant, find_adapter
from finlora_core.cli.follow import watch
from finlora_core.cli.progress import run_words
from finlora_core.cli.results import say_results
from finlora_core.cli.terminal import Url, connect, say, say_facts, say_table
from finlora_core.client import ApiError, Client
from finlora_core.errors import DatasetNotFound
from finlora_core.evaluation.tasks import Metric

Wanted = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME|ID]...", help="Adapters, all of one base.")
]
Tasks = Annotated[
    list[str] | None, typer.Option("--task", help="One of FinLoRA's, such as tfns; repeatable.")
]
AllTasks = Annotated[
    bool, typer.Option("--all-tasks", help="All of FinLoRA's whose test sets are at hand.")
]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|ID",
        help="Rows with targets: a file here, one in the service's dataset roots, or the id of an "
        "upload. With --metric, or as the rows of one --task.",
    ),
]
Labels = Annotated[
    str | None, typer.Option(help="Of --data, with commas. Default: the targets that occur.")
]


def evaluate(
    wanted: Wanted = None,
    task: Tasks = None,
    all_tasks: AllTasks = False,
    data: Data = None,
    metric: Annotated[Metric | None, typer.Option(help="What answers are held against.")] = None,
    labels: Labels = None,
    base: Annotated[bool, typer.Option("--base", help="Judge their base, too.")] = False,
    base_model: Annotated[
        str | None, typer.Option(metavar="ORG/MODEL", help="Judge this base model.")
    ] = None,
    variant: Variant = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Rows of each set. Default: all.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Rows answered at once. Default: 32.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Which rows --limit draws. Default: 42.")
    ] = None,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Queue it and return at once.")
    ] = False,
    url: Url = None,
) -> None:
    """Judge adapters, and base models, on FinLoRA's tasks or on rows of your own.

    It waits in the line of the service's runs, and shows the results when it has ended: each with
    its 95 % interval, and FinLoRA's own figure where it has one of the same base model and
    variant. Ctrl-C only stops watching. A file that the service cannot see is uploaded.

    \b
    finlora evaluate sentiment_llama_3_1_8b_8bits_r8 --task tfns --task fiqa --base
    finlora evaluate sentiment_llama_3_1_8b_8bits_r8 --all-tasks --limit 500
    finlora evaluate adp_8f0c1d0c4a8b4e2f9d11_1 --data held_out.jsonl --metric accuracy
    finlora evaluate --base-model meta-llama/Llama-3.1-8B-Instruct --task headline
    """
    _require_sense(wanted, task, all_tasks, data, metric, labels, base, base_model)
    with connect(url) as client:
        adapters = [find_adapter(client, each, variant) for each in wanted or []]
        sets = _own(data, task, metric, labels) if data else _named(client, task, all_tasks)
        asked = {
            "adapters": [adapter["id"] for adapter in adapters],
            "base_model": base_model or (adapters[0]["base_model"] if base else None),
            "tasks": sets,
            "limit": limit,
            "batch_size": batch_size,
            "seed": seed,
        }
        made = _post(client, {key: value for key, value in asked.items() if value is not None})
        say(f"Posted {made['id']} ({made['name']}) to {client.url}. Ctrl-C only stops watching.")
        if no_wait:
            say(f"To see its results: finlora status {made['id']} --url {client.url}")
        else:
            _watch(client, made)


def evaluations(url: Url = None) -> None:
    """List the newest twenty evaluations. `finlora status ID` shows one's results.

    \b
    finlora evaluations
    """
    with connect(url) as client:
        found = client.list_evaluations(limit=20)
    rows = [(each["id"], each["name"], each["base_model"], run_words(each)[2]) for each in found]
    say_table(("evaluation", "name", "base model", "status"), rows)


def say_evaluation(client: Client, evaluation: Mapping[str, Any]) -> None:
    error = evaluation["error"]
    facts = {
        "name": evaluation["name"],
        "status": run_words(evaluation)[2],
        "base model": evaluation["base_model"],
        "created": evaluation["created_at"],
        "started": evaluation["started_at"],
        "finished": evaluation["finished_at"],
        "error": error and f"{error['code']}: {error['hint']}",
    }
    say_facts(evaluation["id"], facts)
    if evaluation["results"]:
        say()
        say_results(client, evaluation["results"])


def _require_sense(
    wanted: Sequence[str] | None,
    tasks: Sequence[str] | None,
    all_tasks: bool,
    data: str | None,
    metric: Metric | None,
    labels: str | None,
    base: bool,
    base_model: str | None,
) -> None:
    """Words that do not go together are told before the service is asked."""
    if base and not wanted:
        raise typer.BadParameter("--base is that of adapters, and none is named")
    if not wanted and base_model is None:
        raise typer.BadParameter("name adapters, or a base model with --base-model")
    if base and base_model is not None:
        raise typer.BadParameter("--base and --base-model are two words for one thing")
    if bool(tasks) + all_tasks + bool(metric) != 1:
        raise typer.BadParameter("say what to answer: --task, --all-tasks, or --data and --metric")
    if (metric or labels) and not data:
        raise typer.BadParameter("--metric and --labels are for --data FILE")
    if data and not metric and len(tasks or []) != 1:
        raise typer.BadParameter("--data FILE needs a --metric, or the one --task it is rows of")


def _own(
    data: str, tasks: Sequence[str] | None, metric: Metric | None, labels: str | None
) -> Sequence[dict[str, Any]]:
    """Rows of one's own. Where a file lies here, the service may find it there, too."""
    here = Path(data)
    rows: dict[str, Any] = {"dataset_path": str(here.resolve()) if here.is_file() else data}
    rows |= {"metric": metric} if metric else {"task": (tasks or [])[0]}
    if labels:
        rows["labels"] = [label.strip() for label in labels.split(",")]
    return [rows]


def _named(
    client: Client, names: Sequence[str] | None, all_tasks: bool
) -> Sequence[dict[str, Any]]:
    """Raises `DatasetNotFound` when all are asked for, and the rows of none are there."""
    if not all_tasks:
        return [{"task": name} for name in names or []]
    tasks = client.list_tasks()
    missing = [task for task in tasks if task["dataset_path"] is None]
    for task in missing:
        say(f"Skipped {task['name']}: there is no {' or '.join(task['looked_for'])}")
    if missing:
        say("Put them into a dataset root of the service; a FinLoRA checkout works as one.")
    if len(missing) == len(tasks):
        raise DatasetNotFound("the test set of no task is inside the service's dataset roots")
    return [{"task": task["name"]} for task in tasks if task["dataset_path"] is not None]


def _post(client: Client, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What the service does not find, but lies here, is uploaded."""
    try:
        return client.create_evaluation(asked)
    except ApiError as error:
        path = Path(asked["tasks"][0].get("dataset_path", ""))
        if error.code != DatasetNotFound.code or not path.is_file():
            raise
    uploaded = client.upload_dataset(path)
    say(f"Uploaded {path.name} as {uploaded['id']}, since it is in no dataset root of the service")
    return client.create_evaluation(
        {**asked, "tasks": [{**asked["tasks"][0], "dataset_path": uploaded["id"]}]}
    )


def _watch(client: Client, made: Mapping[str, Any]) -> None:
    ended = watch(client, made)
    say()
    say_results(client, ended["results"])
