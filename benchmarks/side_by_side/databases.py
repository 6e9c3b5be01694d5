"""A database for each contestant: SQLite files, or databases of one PostgreSQL server."""

from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import URL, create_engine, make_url, text

from finlora_core.db.session import Database
from tests.chaos.databases import start_database


class Databases:
    def __init__(self, kind: str, folder: Path) -> None:
        """`sqlite` or `postgres`."""
        self._folder = folder
        self._server = start_database(kind, folder)

    def create(self, name: str) -> URL:
        """An empty one."""
        if self._server.url is None:
            return make_url(f"sqlite:///{self._folder / name}.db")
        server = make_url(self._server.url)
        engine = create_engine(server, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return server.set(database=name)

    def stop(self) -> None:
        self._server.stop()


def durability(url: URL) -> Mapping[str, str]:
    """What the service's own sessions say of how a commit is kept."""
    ask = {
        "sqlite": ("PRAGMA journal_mode", "PRAGMA synchronous"),
        "postgresql": ("SHOW fsync", "SHOW synchronous_commit"),
    }
    database = Database.connect(url)
    with database.reading() as session:
        said = {
            question.split()[1]: str(session.execute(text(question)).scalar_one())
            for question in ask[url.get_backend_name()]
        }
    database.close()
    return said
