"""Durable runs: paused, owners, priorities, attempts, workers; what has ended cannot change.

Revision 0002, after 0001.
"""

import sqlalchemy as sa
from alembic import op

from finlora_core.db.models.base import UTCDateTime

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ENDED = "OLD.status IN ('succeeded', 'failed', 'cancelled')"


def upgrade() -> None:
    _extend_runs()
    _create_attempts()
    op.create_table(
        "workers",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("seen_at", UTCDateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    _freeze("runs", _ENDED)
    _freeze("attempts", "OLD.ended_at IS NOT NULL")


def downgrade() -> None:
    raise NotImplementedError("restore a backup from before the upgrade (docs/operations.md)")


def _extend_runs() -> None:
    with op.batch_alter_table("runs") as runs:
        runs.add_column(sa.Column("owner", sa.String(), nullable=False, server_default="local"))
        runs.add_column(sa.Column("parent_id", sa.String(), nullable=True))
        runs.add_column(sa.Column("priority", sa.Integer(), nullable=False, server_default="0"))
        runs.add_column(sa.Column("time_limit_seconds", sa.Double(), nullable=True))
        runs.add_column(sa.Column("not_before", UTCDateTime(timezone=True), nullable=True))
        runs.add_column(sa.Column("pause_requested_at", UTCDateTime(timezone=True), nullable=True))
        runs.add_column(sa.Column("checkpoint_step", sa.Integer(), nullable=True))
        runs.drop_index("ix_runs_claim")
        runs.drop_index("ix_runs_lease")
        runs.drop_constraint(op.f("ck_runs_status"), type_="check")
    op.execute("UPDATE runs SET not_before = queued_at")
    with op.batch_alter_table("runs") as runs:
        runs.alter_column("owner", server_default=None)
        runs.alter_column("priority", server_default=None)
        runs.alter_column("not_before", nullable=False)
        runs.create_foreign_key(op.f("fk_runs_parent_id_runs"), "runs", ["parent_id"], ["id"])
        runs.create_check_constraint(
            op.f("ck_runs_status"),
            "status IN ('queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled')",
        )
        runs.create_check_constraint(
            op.f("ck_runs_pause_requested_at"),
            "pause_requested_at IS NULL OR status = 'running'",
        )
    _index_where(
        "ix_runs_claim",
        ["owner", "priority", "queued_at", "id"],
        "status = 'queued'",
    )
    _index_where("ix_runs_lease", ["lease_expires_at"], "lease_expires_at IS NOT NULL")
    op.create_index("ix_runs_turn", "runs", ["owner", "started_at"])


def _index_where(name: str, columns: list[str], condition: str) -> None:
    where = sa.text(condition)
    op.create_index(name, "runs", columns, sqlite_where=where, postgresql_where=where)


def _create_attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("worker", sa.String(), nullable=False),
        sa.Column("started_at", UTCDateTime(timezone=True), nullable=False),
        sa.Column("ended_at", UTCDateTime(timezone=True), nullable=True),
        sa.Column("resumed_from", sa.Integer(), nullable=True),
        sa.Column(
            "end",
            sa.Enum(
                "completed",
                "failed",
                "stopped",
                "drained",
                "lost",
                name="end",
                native_enum=False,
                length=16,
            ),
            nullable=True,
        ),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.CheckConstraint('(ended_at IS NULL) = ("end" IS NULL)', name=op.f("ck_attempts_ended")),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name=op.f("fk_attempts_run_id_runs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("run_id", "number", name=op.f("pk_attempts")),
    )
    where = sa.text("ended_at IS NULL")
    op.create_index(
        "uq_attempts_alive",
        "attempts",
        ["run_id"],
        unique=True,
        sqlite_where=where,
        postgresql_where=where,
    )
    # runs that a worker of the earlier version is training: their attempt is alive
    op.execute(
        "INSERT INTO attempts (run_id, number, worker, started_at) "
        "SELECT id, attempt, lease_owner, started_at FROM runs WHERE status = 'running'"
    )


def _freeze(table: str, ended: str) -> None:
    """A trigger that refuses every change of a row that has ended.

    SQLite loses a table's triggers when a later migration copies the table (batch mode):
    such a migration must call this again.
    """
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            f"CREATE TRIGGER {table}_end_is_final BEFORE UPDATE ON {table} WHEN {ended} "
            f"BEGIN SELECT RAISE(ABORT, '{table}: what has ended does not change'); END"
        )
        return
    op.execute(
        f"CREATE FUNCTION {table}_end_is_final() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"RAISE EXCEPTION '{table}: what has ended does not change' "
        "USING ERRCODE = 'check_violation'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_end_is_final BEFORE UPDATE ON {table} FOR EACH ROW "
        f"WHEN ({ended}) EXECUTE FUNCTION {table}_end_is_final()"
    )
