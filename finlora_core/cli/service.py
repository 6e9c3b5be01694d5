"""Start the service here, and look after its database."""

from finlora_core.access.first_key import key_file
from finlora_core.cli.terminal import Home, Port, say, settings_of, stop_on_signals
from finlora_core.db import migrate as migrations
from finlora_core.db.session import Database
from finlora_core.settings import Settings, load_settings
from finlora_core.stack import Stack, running_stack, seconds_to_stop


def up(port: Port = None, home: Home = None) -> None:
    """Start the whole service here and keep it running.

    SQLite, a private Redis, the API and one worker. Ctrl-C stops all of it; a run in
    training saves a checkpoint and is queued.

    \b
    finlora up
    finlora up --port 8100 --home /data/finlora
    """
    try:
        settings = settings_of(port, home)
        stop_on_signals()
        say(f"Starting in {settings.home} (about 10 seconds) ...")
        with running_stack(settings) as stack:
            _say_ready(settings, stack)
            _wait(stack)
    except KeyboardInterrupt:
        say("Stopped.")


def migrate() -> None:
    """Bring the database at FINLORA_DATABASE_URL to this version's schema.

    `finlora up` does so by itself; a service of several parts needs it once a version.

    \b
    FINLORA_DATABASE_URL=postgresql://me@host/finlora finlora migrate
    """
    database = Database.connect(load_settings().database)
    migrations.migrate(database)
    say("The database is up to date.")


def say_stopping(settings: Settings) -> None:
    limit = seconds_to_stop(settings)
    say(f"Stopping; a training saves a checkpoint first (at most {limit:g} s) ...")


def _wait(stack: Stack) -> None:
    try:
        stack.wait()
    except KeyboardInterrupt:
        say_stopping(stack.settings)
        raise


def _say_ready(settings: Settings, stack: Stack) -> None:
    rows = {
        "API": stack.url,
        "Swagger UI": f"{stack.url}/docs",
        "datasets": ":".join(map(str, settings.datasets)),
        "models": ":".join(map(str, settings.models)),
        "adapters": str(settings.adapters),
        "logs": str(stack.log("worker").parent),
        "API key": f"in {key_file(stack.settings)}" if stack.key else "finlora keys create NAME",
    }
    for name, value in rows.items():
        say(f"  {name:<11} {value}")
    say("Ready. Ctrl-C stops everything.")
