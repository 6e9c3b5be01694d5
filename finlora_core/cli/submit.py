"""Post runs of a config file without waiting, or show what they become."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from finlora_core.cli.terminal import Url, connect, errors, say, say_table
from finlora_core.client import ApiError, Client
from finlora_core.datasets.check import check_dataset
from finlora_core.datasets.locate import locate_dataset
from finlora_core.errors import DatasetNotFound, InvalidDataset
from finlora_core.runs.config import RunConfig
from finlora_core.runs.config_file import NamedConfig, find_checkout, read_config_file
from finlora_core.settings import Settings, load_settings
from finlora_core.training.axolotl import Hardware, TrainingInput, to_yaml
from finlora_core.training.axolotl import render as render_axolotl
from finlora_core.training.base_model import (
    BaseModelFacts,
    find_base_model,
    guess_from_name,
    read_base_model,
)
from finlora_core.training.files import AttemptFiles

File = Annotated[Path, typer.Argument(help="A JSON file of run name -> run config.")]


def submit(
    file: File,
    names: Annotated[list[str] | None, typer.Argument(help="Which of its runs.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All of its runs.")] = False,
    url: Url = None,
) -> None:
    """Queue runs of a config file and return at once.

    FILE is JSON, an object of run name -> run config. Nothing is posted when any of those
    that are named has a mistake in it.

    \b
    finlora submit finetune_configs.json sentiment_llama_3_1_8b_8bits_r8
    finlora submit finetune_configs.json --all --url http://gpu-box:8000
    """
    configs = read_config_file(file)
    if bool(names) == every:
        raise typer.BadParameter(f"name some of the {len(configs.names)} runs, or give --all")
    chosen = configs.choose(configs.names if every else names or [])
    with connect(url) as client:
        refused = _post(client, chosen)
    if refused:
        raise typer.Exit(1)


def render(file: File, name: Annotated[str, typer.Argument(help="Which of its runs.")]) -> None:
    """Print the Axolotl configuration that a worker would be given. Needs no service.

    For a GPU, unless FINLORA_DEVICE is cpu. The worker fills in its own folders.

    \b
    finlora render finetune_configs.json sentiment_llama_3_1_8b_8bits_r8 > axolotl.yaml
    """
    (chosen,) = read_config_file(file).choose([name])
    checkout = find_checkout(file)
    say(_render(chosen.request.config, load_settings(), [checkout] if checkout else []).rstrip())


def _post(client: Client, chosen: Sequence[NamedConfig]) -> int:
    """How many the service refused, having said why."""
    runs, refused = [], 0
    for config in chosen:
        try:
            runs.append(client.create_run(config.body))
        except ApiError as error:
            errors.print(f"{config.name}: {error.code}: {error}", soft_wrap=True)
            refused += 1
    rows = [(run["id"], run["name"], run["variant"], run["status"]) for run in runs]
    if rows:
        say_table(("run", "name", "variant", "status"), rows)
    say(f"{len(rows)} posted" + (f", {refused} refused" if refused else ""))
    return refused


def _render(config: RunConfig, settings: Settings, roots: Sequence[Path]) -> str:
    """As the worker does, from what is at hand here of the dataset and the base model."""
    dataset, rows, remark = _dataset(config, [*roots, *settings.datasets])
    model, facts = _base_model(config.base_model, settings)
    given = TrainingInput(
        base_model=model,
        model=facts,
        dataset=dataset,
        dataset_rows=rows,
        validation_dataset=config.validation_dataset_path,
    )
    hardware = Hardware.CPU if settings.device == "cpu" else Hardware.CUDA
    files = AttemptFiles.of(Path("<runs>"), "<run>", 1)
    return remark + to_yaml(render_axolotl(config, given, files, hardware))


def _dataset(config: RunConfig, roots: Sequence[Path]) -> tuple[str, int, str]:
    """Its path, its rows, and what to say where it is not at hand."""
    written = config.dataset_path
    try:
        path = locate_dataset(written, roots)
        facts = check_dataset(path, config.prompt_format, shown_as=written)
    except (DatasetNotFound, InvalidDataset) as error:
        return written, 0, f"# logging_steps depends on the dataset's rows. {error}\n"
    return str(path), facts.rows, ""


def _base_model(name: str, settings: Settings) -> tuple[str, BaseModelFacts]:
    folder = find_base_model(name, settings.models)
    return (
        (name, guess_from_name(name)) if folder is None else (str(folder), read_base_model(folder))
    )
