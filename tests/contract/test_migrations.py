"""The migrations and the models describe one schema, and an upgrade keeps what was there."""

from collections.abc import Sequence
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.orm import Session

from finlora_core.db.migrate import _config, migrate
from finlora_core.db.models import Base, Run, RunAttempt
from finlora_core.db.session import Database
from finlora_core.runs import lifecycle
from finlora_core.runs.outcome import AttemptEnd, End
from finlora_core.runs.status import RunStatus
from tests.support import POLICY

FILLED_AT_0001 = """
INSERT INTO runs (id, name, variant, base_model, config, config_sha256, dataset_rows,
  dataset_sha256, status, phase, created_at, queued_at, started_at, finished_at, attempt, crashes,
  lease_owner, lease_token, lease_expires_at) VALUES
  ('done', 'n', '8bits_r8', 'org/model', '{}', 'c', 40, 'd', 'succeeded', NULL, :at, :at, :at, :at,
   2, 1, NULL, NULL, NULL),
  ('waits', 'n', '8bits_r8', 'org/model', '{}', 'c', 40, 'd', 'queued', NULL, :at, :later, NULL,
   NULL, 0, 0, NULL, NULL, NULL),
  ('trains', 'n', '8bits_r8', 'org/model', '{}', 'c', 40, 'd', 'running', 'training', :at, :at,
   :at, NULL, 3, 2, 'w', 'token', :later);
INSERT INTO metrics (run_id, attempt, step, "values") VALUES ('done', 2, 7, '{"loss": 0.5}');
INSERT INTO log_chunks (run_id, start, "end", text) VALUES ('done', 0, 5, 'hello');
INSERT INTO adapters (id, run_id, name, variant, version, base_model, sha256, files, created_at)
  VALUES ('adp', 'done', 'n', '8bits_r8', 1, 'org/model', 'a', '[]', :at)
"""
AT, LATER = "2026-01-05 12:00:00.000000", "2026-01-05 12:02:00.000000"


def test_the_models_and_the_newest_migration_agree(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrating_twice_changes_nothing(database: Database) -> None:
    migrate(database)
    with database.engine.connect() as connection:
        assert MigrationContext.configure(connection).get_current_revision() == head(database)


def head(database: Database) -> str | None:
    return ScriptDirectory.from_config(_config(database)).get_current_head()


def test_an_upgrade_keeps_every_row(blank_database: Database) -> None:
    fill_at_0001(blank_database)
    before = {table: everything(blank_database, table) for table in CHILDREN}
    migrate(blank_database)
    for table, rows in before.items():
        now = everything(blank_database, table)
        assert [{key: new[key] for key in old} for old, new in zip(rows, now, strict=True)] == rows
    assert all(before.values())
    with blank_database.reading() as session:
        kept = {run.id: run for run in session.query(Run)}
        assert {id: run.status.value for id, run in kept.items()} == {
            "done": "succeeded",
            "waits": "queued",
            "trains": "running",
        }
        assert kept["waits"].not_before == kept["waits"].queued_at


def test_a_run_that_the_earlier_version_left_in_training_is_taken_back(
    blank_database: Database,
) -> None:
    fill_at_0001(blank_database)
    migrate(blank_database)
    with blank_database.transaction() as session:
        lease = lifecycle.Lease("trains", 3, "token")
        at = session.get_one(Run, "trains").started_at
        assert at is not None
        end = AttemptEnd(end=End.DRAINED)
        assert lifecycle.finish(session, lease, end, now=at, policy=POLICY) is RunStatus.QUEUED
        assert attempts(session) == [("trains", 3, "w", End.DRAINED)]


CHILDREN = ("metrics", "log_chunks", "adapters")


def fill_at_0001(database: Database) -> None:
    command.upgrade(_config(database), "0001")
    with database.engine.begin() as connection:
        for statement in FILLED_AT_0001.split(";"):
            given = {"at": AT, "later": LATER}
            used = {name: value for name, value in given.items() if f":{name}" in statement}
            connection.execute(text(statement), used)


def everything(database: Database, table: str) -> Sequence[dict[str, Any]]:
    with database.engine.connect() as connection:
        rows = connection.execute(text(f"SELECT * FROM {table}"))  # noqa: S608  # our names
        return [dict(row) for row in rows.mappings()]


def attempts(session: Session) -> Sequence[tuple[str, int, str, End | None]]:
    rows = session.query(RunAttempt)
    return [(row.run_id, row.number, row.worker, row.end) for row in rows]
