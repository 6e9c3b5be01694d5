"""Bring a database to the newest schema. Safe to run at every start."""

from importlib.resources import files

from alembic import command
from alembic.config import Config

from finlora_core.db.session import Database


def migrate(database: Database) -> None:
    command.upgrade(_config(database), "head")


def _config(database: Database) -> Config:
    config = Config()
    config.set_main_option("script_location", str(files("migrations")))
    config.attributes["database"] = database
    return config
