"""Bring a database to the newest schema. Safe to run at every start."""

from importlib.resources import files

from alembic import command
from alembic.config import Config
from sqlalchemy.exc import OperationalError

from finlora_core.db.session import Database
from finlora_core.errors import Unavailable


def migrate(database: Database) -> None:
    """Raises `Unavailable` when the database cannot be reached."""
    try:
        command.upgrade(_config(database), "head")
    except OperationalError as error:
        where = database.engine.url.render_as_string(hide_password=True)
        raise Unavailable(f"cannot migrate {where}: {error.orig}") from None


def _config(database: Database) -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("migrations")))
    config.attributes["database"] = database
    return config
