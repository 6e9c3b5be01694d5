"""API keys, on the database of this machine's settings: who can reach that needs no key."""

from datetime import timedelta
from typing import Annotated

import typer
from pydantic import ByteSize, TypeAdapter, ValidationError

from finlora_core.access import keys
from finlora_core.access.owners import DEFAULT_OWNER
from finlora_core.access.pepper import load_pepper
from finlora_core.access.quota import Quota
from finlora_core.access.scopes import OWN, Scope
from finlora_core.audit import log
from finlora_core.audit.action import Action
from finlora_core.audit.log import HERE
from finlora_core.cli.terminal import opened_database, say, say_table
from finlora_core.db.models import ApiKey
from finlora_core.db.session import now
from finlora_core.errors import InvalidSettings
from finlora_core.runs.config import RunName
from finlora_core.settings import load_settings

MOST = 1000

app = typer.Typer(
    no_args_is_help=True,
    help="API keys. They work on the database of this machine's settings, as `migrate` does.",
)


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for, such as `ci`.")],
    owner: Annotated[str, typer.Option(help="Whose runs and adapters it opens.")] = DEFAULT_OWNER,
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="May be given several times. Default: all but admin."),
    ] = None,
    expires_days: Annotated[float | None, typer.Option(min=0.001, help="Default: never.")] = None,
    max_queued_runs: Annotated[
        int | None, typer.Option(min=0, help="Of its owner. Default: the server's.")
    ] = None,
    max_stored_bytes: Annotated[
        str | None, typer.Option(help="Such as 10GB or 500MiB. Default: the server's.")
    ] = None,
    gpu_hours_per_day: Annotated[
        float | None, typer.Option(min=0, help="In any 24 hours. Default: the server's.")
    ] = None,
) -> None:
    """Make a key and show it, this once.

    \b
    finlora keys create ci --owner research --scope runs:read --scope runs:write
    finlora keys create lab --owner lab --max-queued-runs 20 --max-stored-bytes 10GB
    """
    for given in (name, owner):
        _require_name(given)
    quota = Quota(
        max_queued_runs=max_queued_runs,
        max_stored_bytes=_bytes(max_stored_bytes) if max_stored_bytes else None,
        gpu_hours_per_day=gpu_hours_per_day,
    )
    pepper = load_pepper(load_settings())
    with opened_database() as database, database.transaction() as session:
        at = now(session)
        expires_at = at + timedelta(days=expires_days) if expires_days else None
        key, text = keys.create(
            session,
            pepper,
            name=name,
            owner=owner,
            scopes=scope or OWN,
            now=at,
            expires_at=expires_at,
            quota=quota,
        )
        log.note(session, pepper, HERE, Action.KEY_CREATED, key.id, now=at, **keys.said_of(key))
    say(f"{key.id}: {name}, of {owner}, for {', '.join(key.scopes)}")
    say(text)
    say("It is shown this once. Send it as `Authorization: Bearer …`, or set FINLORA_API_KEY.")


@app.command(name="list")
def list_keys() -> None:
    """The newest first, with owner, scopes and state; the keys themselves are kept nowhere."""
    with opened_database() as database, database.reading() as session:
        rows, at = keys.list_keys(session, cursor=None, limit=MOST).rows, now(session)

    def state(key: ApiKey) -> str:
        if key.revoked_at:
            return "revoked"
        if key.expires_at and key.expires_at <= at:
            return "expired"
        return f"used {key.last_used_at:%Y-%m-%d %H:%M}" if key.last_used_at else "never used"

    say_table(
        ("id", "name", "owner", "state", "scopes"),
        [(key.id, key.name, key.owner, state(key), " ".join(key.scopes)) for key in rows],
    )


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="As `finlora keys list` shows it.")],
) -> None:
    """From now on the key opens nothing; a service that runs notices within seconds."""
    pepper = load_pepper(load_settings())
    with opened_database() as database, database.transaction() as session:
        at = now(session)
        key = keys.revoke(session, key_id, now=at)
        log.note(session, pepper, HERE, Action.KEY_REVOKED, key_id, now=at)
    say(f"{key.id}: revoked ({key.name}, of {key.owner})")


def _bytes(given: str) -> int:
    try:
        return int(TypeAdapter(ByteSize).validate_python(given))
    except ValidationError:
        raise InvalidSettings(f"{given!r} is no size; write 10GB, 500MiB or a number") from None


def _require_name(given: str) -> None:
    try:
        TypeAdapter(RunName).validate_python(given)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InvalidSettings(f"{given!r}: {reason}") from None
