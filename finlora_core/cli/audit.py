"""The audit log, on the database of this machine's settings."""

from typing import Annotated

import typer

from finlora_core.access.pepper import load_pepper
from finlora_core.audit import chain, log
from finlora_core.audit.action import Action
from finlora_core.audit.kept import Seal, read_kept
from finlora_core.audit.log import Filters
from finlora_core.cli.terminal import opened_database, say, say_table
from finlora_core.db.models import AuditEntry
from finlora_core.db.session import now
from finlora_core.errors import AuditDamaged, InvalidSettings
from finlora_core.settings import load_settings

app = typer.Typer(
    no_args_is_help=True,
    help="Who did what. It works on the database of this machine's settings, as `migrate` does.",
)


@app.command(name="list")
def list_entries(
    owner: Annotated[str | None, typer.Option(help="Only what this one's keys did.")] = None,
    key: Annotated[str | None, typer.Option(help="Only what the key of this id did.")] = None,
    action: Annotated[Action | None, typer.Option(help="Only this.")] = None,
    object_id: Annotated[
        str | None, typer.Option("--object", help="Only what was done to this id.")
    ] = None,
    before: Annotated[int | None, typer.Option(min=1, help="Only ids below this one.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
) -> None:
    """The newest first."""
    wanted = Filters(owner=owner, key_id=key, action=action, object_id=object_id)
    with opened_database() as database, database.reading() as session:
        rows = log.list_entries(session, wanted, before=before, limit=limit)
    say_table(
        ("id", "at", "owner", "key", "action", "object"),
        [_columns(row) for row in rows],
    )


@app.command()
def verify(
    known: Annotated[
        str | None,
        typer.Option(help="NUMBER:SEAL as this command, or the API's log, has told it earlier."),
    ] = None,
) -> None:
    """Read all of it. The first entry that was edited, moved, added or deleted is named.

    The end is compared with the home's file audit_head, too, where there is one.

    \b
    finlora audit verify --known 1204:9f86d081…
    """
    settings = load_settings()
    seals = [_seal(known) if known else None, read_kept(settings)]
    pepper = load_pepper(settings)
    with opened_database() as database, database.reading() as session:
        found = [seal for seal in seals if seal is not None]
        verdict = chain.verify(session, pepper, now=now(session), known=found)
    if verdict.fault is not None:
        raise AuditDamaged(verdict.fault)
    say(f"{verdict.head.number} entries, none of them edited, moved, added or deleted")
    say(f"Keep this elsewhere, for --known: {verdict.head}")


def _columns(row: AuditEntry) -> tuple[object, ...]:
    at = f"{row.at:%Y-%m-%d %H:%M:%S}"
    return row.id, at, row.owner, row.key_id or "", row.action, row.object_id


def _seal(given: str) -> Seal:
    seal = Seal.parse(given)
    if seal is None:
        raise InvalidSettings(f"{given!r} is not NUMBER:SEAL, as `finlora audit verify` tells it")
    return seal
