"""How Alembic reaches the database: through the same settings and engine as the service."""

from collections.abc import Iterator
from contextlib import contextmanager

from alembic import context
from sqlalchemy import Connection

from finlora_core.db.models import Base
from finlora_core.db.session import Database
from finlora_core.settings import load_settings


def migrate() -> None:
    database: Database = context.config.attributes.get("database") or Database.connect(
        load_settings().database
    )
    with database.engine.connect() as connection, _tables_may_be_copied(connection):
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            render_as_batch=connection.dialect.name == "sqlite",  # it cannot alter a column
        )
        with context.begin_transaction():
            context.run_migrations()


@contextmanager
def _tables_may_be_copied(connection: Connection) -> Iterator[None]:
    """SQLite alters a table by copying it and dropping the old one. With foreign keys on,
    the drop would delete the rows of other tables that refer to it. Outside a transaction,
    since inside one the pragma does nothing."""
    if connection.dialect.name != "sqlite":
        yield
        return
    driver = connection.connection.driver_connection
    assert driver is not None  # noqa: S101  # for mypy: it is connected
    driver.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        driver.execute("PRAGMA foreign_keys=ON")


migrate()
