"""The migrations and the models describe one schema."""

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from finlora_core.db.migrate import migrate
from finlora_core.db.models import Base
from finlora_core.db.session import Database


def test_the_models_and_the_newest_migration_agree(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrating_twice_changes_nothing(database: Database) -> None:
    migrate(database)
    with database.engine.connect() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == "0002"
