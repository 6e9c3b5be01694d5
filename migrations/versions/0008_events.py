"""Events: what has happened to runs, append-only.

Revision 0008, after 0007.
"""

import sqlalchemy as sa
from alembic import op

from finlora_core.db.models.base import UTCDateTime

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_TYPES = (
    *("created", "started", "resumed_from_checkpoint", "rows_dropped", "checkpoint_saved"),
    *("cancel_requested", "pause_requested", "paused", "resumed", "requeued", "succeeded"),
    *("adapter_published", "failed", "cancelled"),
)
_HAS_RUN = "EXISTS (SELECT 1 FROM runs WHERE id = OLD.run_id)"
_REFUSAL = "events: what has happened does not change"


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("at", UTCDateTime(timezone=True), nullable=False),
        sa.Column(
            "type",
            sa.Enum(*_TYPES, name="eventtype", native_enum=False, length=32),
            nullable=False,
        ),
        sa.Column(
            "level",
            sa.Enum("info", "warn", "error", name="level", native_enum=False, length=16),
            nullable=False,
        ),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.CheckConstraint("level IN ('info', 'warn', 'error')", name=op.f("ck_events_level")),
        sa.ForeignKeyConstraint(
            ["run_id"], ["runs.id"], name=op.f("fk_events_run_id_runs"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index("ix_events_run", "events", ["run_id", "id"])
    if op.get_bind().dialect.name == "sqlite":
        _refuse_on_sqlite("UPDATE", "1")
        _refuse_on_sqlite("DELETE", _HAS_RUN)
    else:
        _refuse_on_postgresql()


def downgrade() -> None:
    raise NotImplementedError("restore a backup from before the upgrade (docs/operations.md)")


def _refuse_on_sqlite(what: str, when: str) -> None:
    op.execute(
        f"CREATE TRIGGER events_refuse_{what.lower()} BEFORE {what} ON events WHEN {when} "
        f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
    )


def _refuse_on_postgresql() -> None:
    """They go only with their run, which is gone by the time that the database deletes them."""
    op.execute(
        "CREATE FUNCTION events_are_final() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"IF TG_OP = 'DELETE' AND NOT {_HAS_RUN} THEN RETURN OLD; END IF; "
        f"RAISE EXCEPTION '{_REFUSAL}' USING ERRCODE = 'check_violation'; END $$"
    )
    op.execute(
        "CREATE TRIGGER events_are_final BEFORE UPDATE OR DELETE ON events FOR EACH ROW "
        "EXECUTE FUNCTION events_are_final()"
    )
