"""FinLoRA's command: train one run of a config file, and say how it went."""

from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from finlora_core.cli.follow import follow, say_failure, say_left
from finlora_core.cli.progress import duration
from finlora_core.cli.service import say_stopping
from finlora_core.cli.terminal import (
    INTERRUPTED,
    Home,
    Port,
    connect,
    say,
    settings_of,
    stop_on_signals,
)
from finlora_core.client import Client
from finlora_core.datasets.locate import locate_dataset
from finlora_core.db.session import Database
from finlora_core.errors import Conflict
from finlora_core.evaluation.tasks import Metric
from finlora_core.runs import queries
from finlora_core.runs.config_file import NamedConfig, find_checkout, read_config_file
from finlora_core.settings import Settings
from finlora_core.stack import Stack, running_stack
from finlora_core.training.best import best, judgements

DEFAULT_FILE = Path("finetune_configs.json")
"""FinLoRA's name for it."""

Config = Annotated[
    Path,
    typer.Option(
        "--config", "--config-json", "--config_json", help="A JSON file of run name -> run config."
    ),
]
Name = Annotated[str | None, typer.Argument(metavar="[NAME]", help="Which of its runs.")]
NameOption = Annotated[
    str | None, typer.Option("--run-name", "--run_name", help="The same as NAME.")
]

Url = Annotated[
    str | None,
    typer.Option(
        envvar="FINLORA_URL",
        show_envvar=False,
        help="A service that runs already. Default: $FINLORA_URL; without one, one is started.",
    ),
]


def finetune(
    name: Name = None,
    config: Config = DEFAULT_FILE,
    run_name: NameOption = None,
    url: Url = None,
    port: Port = None,
    home: Home = None,
) -> None:
    """Train one run of a FinLoRA config file and follow it to its adapter.

    Without --url or FINLORA_URL a service is started for it here, as `finlora up` does, and
    stopped after it. Ctrl-C then saves a checkpoint; the same command goes on from there.
    With one, Ctrl-C only stops watching.

    \b
    finlora finetune --config lora/finetune_configs.json --run_name NAME
    finlora finetune NAME --config_json lora/finetune_configs.json
    finlora finetune NAME --url http://gpu-box:8000
    """
    (chosen,) = read_config_file(config).choose([_one_name(name, run_name)])
    stop_on_signals()
    if url is None:
        _train_here(chosen, config, settings_of(port, home))
    else:
        _train_there(chosen, url)


def _one_name(argument: str | None, option: str | None) -> str:
    given = {name for name in (argument, option) if name is not None}
    if len(given) != 1:
        raise typer.BadParameter("say which run of the file: NAME or --run_name NAME, one of them")
    return given.pop()


def _train_there(chosen: NamedConfig, url: str) -> None:
    with connect(url) as client:
        run = client.create_run(chosen.body)
        say(f"Posted {run['id']} ({run['variant']}) to {client.url}. Ctrl-C only stops watching.")
        try:
            ended = follow(client, run)
        except KeyboardInterrupt:
            say_left(client, run)
            raise typer.Exit(INTERRUPTED) from None
        _conclude(client, ended, where=None)


def _train_here(chosen: NamedConfig, file: Path, settings: Settings) -> None:
    settings = _with_checkout(settings, file)
    locate_dataset(chosen.request.dataset_path, settings.datasets)  # before anything is started
    _require_none_running(settings)
    say(f"Starting a service of its own in {settings.home} (about 10 seconds) ...")
    posted: list[str] = []
    try:
        with running_stack(settings) as stack, Client(stack.url, stack.key) as client:
            try:
                ended = _train_in(stack, client, chosen, posted.append)
            except KeyboardInterrupt:
                say_stopping(settings)
                raise
            _conclude(client, ended, where=settings.adapters)
    except KeyboardInterrupt:
        _say_kept(settings, posted)
        raise typer.Exit(INTERRUPTED) from None


def _train_in(
    stack: Stack, client: Client, chosen: NamedConfig, posted: Callable[[str], None]
) -> dict[str, Any]:
    run = _unfinished(client, chosen)
    if run is None:
        run = client.create_run(chosen.body)
        say(f"Posted {run['id']} ({run['variant']}) to {stack.url}")
    else:
        say(f"Going on with {run['id']} ({run['variant']}), which was stopped before its end")
    posted(run["id"])
    return follow(client, run, stack.require_alive)


def _unfinished(client: Client, chosen: NamedConfig) -> dict[str, Any] | None:
    """The run that an interrupted command of the same words has left behind."""
    wanted = chosen.request.config.model_dump(mode="json")
    for status in ("running", "queued"):
        for run in client.list_runs(name=chosen.name, status=status):
            if run["config"] == wanted:
                return run
    return None


def _conclude(client: Client, run: Mapping[str, Any], where: Path | None) -> None:
    """Say how it went. `where` is the adapters' folder, if it is on this machine."""
    if run["status"] != "succeeded":
        say_failure(run)
        raise typer.Exit(1)
    adapter = client.get_adapter(run["adapter_id"])
    seconds = _seconds(run)
    say(f"{run['name']}: succeeded in {duration(seconds)}", style="bold")
    rows = {
        "adapter": f"{adapter['id']}, version {adapter['version']}, {adapter['size']} bytes",
        "metrics": _metrics(client, run["id"]),
        "sha256": adapter["sha256"],
    }
    if where is not None:
        rows["folder"] = str(where / adapter["variant"] / adapter["name"])
    for name, value in rows.items():
        say(f"  {name:<9} {value}")
    _say_how_to_load(adapter, rows.get("folder"), client.url)


def _say_how_to_load(adapter: Mapping[str, Any], folder: str | None, url: str) -> None:
    if folder is None:
        say(f"Fetch it: finlora adapters pull {adapter['id']} --url {url}")
        folder = f"{adapter['name']}-v{adapter['version']}"
    say("Load it:")
    say("  from peft import PeftModel")
    say("  from transformers import AutoModelForCausalLM")
    say(f'  base = AutoModelForCausalLM.from_pretrained("{adapter["base_model"]}")')
    say(f'  model = PeftModel.from_pretrained(base, "{folder}")')


def _metrics(client: Client, run_id: str) -> str:
    """The newest value of each loss that was logged, and how good the published step is."""
    points = [{**point["values"], "step": point["step"]} for point in client.read_metrics(run_id)]
    latest = {key: value for point in points for key, value in point.items()}
    names = {"loss": "loss", "train_loss": "mean loss", "eval_loss": "validation loss"}
    shown = [f"{words} {latest[key]:.4f}" for key, words in names.items() if key in latest]
    tops = filter(None, (best(judgements(points, metric)) for metric in Metric))
    shown += [f"{top.metric} {top.value:.4f} at step {top.step}" for top in tops]
    return ", ".join(shown) or "none were logged"


def _seconds(run: Mapping[str, Any]) -> float:
    start, end = (datetime.fromisoformat(run[key]) for key in ("started_at", "finished_at"))
    return (end - start).total_seconds()


def _with_checkout(settings: Settings, file: Path) -> Settings:
    """A FinLoRA checkout's own configs name its datasets, so it is a dataset root."""
    checkout = find_checkout(file)
    if checkout is None:
        return settings
    return settings.model_copy(update={"dataset_roots": (checkout, *settings.datasets)})


def _require_none_running(settings: Settings) -> None:
    url = Stack(settings).url
    with Client(url) as client:
        if client.serves():
            raise Conflict(
                f"a service runs at {url} already: train there with --url {url} (or "
                f"FINLORA_URL={url}), or start another with a --port and a --home of its own"
            )


def _say_kept(settings: Settings, posted: list[str]) -> None:
    """What has become of the run, from the database: the API is gone."""
    if not posted:
        say("Stopped; nothing was posted.")
        return
    database = Database.connect(settings.database)
    with database.reading() as session:
        run = queries.get_any_run(session, posted[0])
        step = f" from its checkpoint at step {run.checkpoint_step}" if run.checkpoint_step else ""
        say(f"Stopped; {run.id} is {run.status}. The same command goes on with it{step}.")
    database.close()
