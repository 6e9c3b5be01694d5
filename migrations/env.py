"""How Alembic reaches the database: through the same settings and engine as the service."""

from alembic import context

from finlora_core.db.models import Base
from finlora_core.db.session import Database
from finlora_core.settings import load_settings


def migrate() -> None:
    database: Database = context.config.attributes.get("database") or Database.connect(
        load_settings().database
    )
    with database.engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            render_as_batch=connection.dialect.name == "sqlite",  # it cannot alter a column
        )
        with context.begin_transaction():
            context.run_migrations()


migrate()
