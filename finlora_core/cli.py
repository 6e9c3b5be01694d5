"""`finlora …`: start the service, migrate its database."""

import signal
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from finlora_core.db.migrate import migrate
from finlora_core.db.session import Database
from finlora_core.errors import FinLoRAError
from finlora_core.settings import Settings, load_settings
from finlora_core.stack import Stack, running_stack, seconds_to_stop

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A self-hosted LoRA fine-tuning service: FinLoRA run configs in, checked adapters out.",
    epilog="Every setting is a FINLORA_* variable: see the README's table.",
)
console = Console(highlight=False)

Port = Annotated[int | None, typer.Option(help="Port of the API. Default: 8000.")]
Home = Annotated[
    Path | None, typer.Option(help="Folder for all state. Default: $FINLORA_HOME or ~/.finlora.")
]


@app.command()
def up(port: Port = None, home: Home = None) -> None:
    """Start the whole service here and keep it running: SQLite, a private Redis, the API and
    one worker. Ctrl-C stops all of it; a run in training saves a checkpoint and is queued."""
    given = {"port": port, "home": home}
    try:
        settings = load_settings(**{k: v for k, v in given.items() if v is not None})
        for sig in (signal.SIGINT, signal.SIGTERM):  # a background shell ignores SIGINT
            signal.signal(sig, _like_ctrl_c)
        console.print(f"Starting in {settings.home_dir} (about 10 seconds) ...")
        with running_stack(settings) as stack:
            _say_ready(settings, stack)
            _wait(stack)
    except KeyboardInterrupt:
        console.print("Stopped.")
    except FinLoRAError as error:
        raise _give_up(error) from None


@app.command(name="migrate")
def migrate_database() -> None:
    """Bring the database at FINLORA_DATABASE_URL to this version's schema."""
    try:
        database = Database.connect(load_settings().database)
        migrate(database)
    except FinLoRAError as error:
        raise _give_up(error) from None
    console.print("The database is up to date.")


def _wait(stack: Stack) -> None:
    try:
        stack.wait()
    except KeyboardInterrupt:
        limit = seconds_to_stop(stack.settings)
        console.print(f"Stopping; a training saves a checkpoint first (at most {limit:g} s) ...")
        raise


def _say_ready(settings: Settings, stack: Stack) -> None:
    rows = {
        "API": stack.url,
        "Swagger UI": f"{stack.url}/docs",
        "datasets": ":".join(map(str, settings.datasets)),
        "models": ":".join(map(str, settings.models)),
        "adapters": str(settings.adapters),
        "logs": str(stack.log("worker").parent),
    }
    for name, value in rows.items():
        console.print(f"  {name:<11} {value}", soft_wrap=True)
    console.print("Ready. Ctrl-C stops everything.")


def _like_ctrl_c(signum: int, frame: FrameType | None) -> None:
    """Once: a second one must not cut short the stopping of what was started."""
    for sig in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sig, signal.SIG_IGN)
    raise KeyboardInterrupt


def _give_up(error: FinLoRAError) -> typer.Exit:
    console.print(f"[red]{error.code}[/red]: {error}", soft_wrap=True)
    return typer.Exit(1)


if __name__ == "__main__":
    app()
