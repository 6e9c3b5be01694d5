"""The key of whoever starts the service on their own machine."""

import os
import secrets
from pathlib import Path

from finlora_core.access import keys
from finlora_core.access.owners import DEFAULT_OWNER
from finlora_core.access.pepper import load_pepper, write_private
from finlora_core.access.scopes import ALL
from finlora_core.audit import log
from finlora_core.audit.action import Action
from finlora_core.audit.log import HERE
from finlora_core.db.session import Database, now
from finlora_core.settings import Settings


def key_file(settings: Settings) -> Path:
    return settings.home / "api_key"


def read_key(settings: Settings) -> str | None:
    """What `make_first_key` has left; None when it is not there, or not ours to read."""
    try:
        return key_file(settings).read_text("utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def make_first_key(database: Database, settings: Settings) -> None:
    """Once, while there is no key at all: into a file that only its owner can read."""
    pepper = load_pepper(settings)
    with database.transaction() as session:
        if keys.are_there(session):
            return
        name, at = "first", now(session)
        key, text = keys.create(
            session, pepper, name=name, owner=DEFAULT_OWNER, scopes=ALL, now=at
        )
        log.note(session, pepper, HERE, Action.KEY_CREATED, key.id, now=at, **keys.said_of(key))
        # before the commit: a key that nobody has been given would only be in the way
        _replace(key_file(settings), text)


def _replace(path: Path, text: str) -> None:
    fresh = path.with_name(f".api_key.{os.getpid()}.{secrets.token_hex(4)}")
    write_private(fresh, f"{text}\n".encode())
    fresh.replace(path)
