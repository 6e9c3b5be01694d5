"""The stable path of a name, which always shows the newest version."""

from finlora_core.adapters import registry
from finlora_core.adapters.store import AdapterStore
from finlora_core.db.session import Database


def link_newest(
    database: Database, store: AdapterStore, owner: str, variant: str, name: str
) -> None:
    """Point the stable path at the newest listed version.

    Raises `OSError` when something else is in its place, `SQLAlchemyError` without a database.
    """
    linked: str | None = None
    # again when another version has landed meanwhile: its link may have come before ours
    while (newest := _newest(database, owner, variant, name)) is not None and newest != linked:
        store.link(owner, variant, name, newest)
        linked = newest


def _newest(database: Database, owner: str, variant: str, name: str) -> str | None:
    with database.reading() as session:
        newest = registry.newest_version(session, owner, variant, name)
        return newest.id if newest else None
