"""The audit log, and triggers that let nobody change what is in it.

Revision 0014, after 0013.
"""

import sqlalchemy as sa
from alembic import op

from finlora_core.db.models.base import AUTO_ID, UTCDateTime

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

WRITTEN = ("id", "at", "owner", "key_id", "action", "object_id", "request_id", "signature")

SQLITE = (
    """CREATE TRIGGER audit_log_no_delete BEFORE DELETE ON audit_log
    BEGIN SELECT RAISE(ABORT, 'audit_log is append-only'); END""",
    f"""CREATE TRIGGER audit_log_no_update BEFORE UPDATE ON audit_log
    WHEN OLD.number IS NOT NULL OR NEW.details IS NOT OLD.details
      OR {" OR ".join(f"NEW.{name} IS NOT OLD.{name}" for name in WRITTEN)}
    BEGIN SELECT RAISE(ABORT, 'audit_log is append-only'); END""",
)

POSTGRESQL = (
    """CREATE FUNCTION audit_log_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'audit_log is append-only'; END $$""",
    """CREATE TRIGGER audit_log_no_delete BEFORE DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_log_refuse()""",
    f"""CREATE TRIGGER audit_log_no_update BEFORE UPDATE ON audit_log FOR EACH ROW
    WHEN (OLD.number IS NOT NULL OR NEW.details::text IS DISTINCT FROM OLD.details::text
      OR {" OR ".join(f"NEW.{name} IS DISTINCT FROM OLD.{name}" for name in WRITTEN)})
    EXECUTE FUNCTION audit_log_refuse()""",
)


def upgrade() -> None:
    op.create_table(
        "audit_log",
        sa.Column("id", AUTO_ID, autoincrement=True, nullable=False),
        sa.Column("at", UTCDateTime(timezone=True), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("key_id", sa.String(), nullable=True),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("object_id", sa.String(), nullable=False),
        sa.Column("request_id", sa.String(), nullable=True),
        sa.Column("details", sa.JSON(), nullable=False),
        sa.Column("signature", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=True),
        sa.Column("seal", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_audit_log"),
    )
    unsealed = sa.text("number IS NULL")
    op.create_index("uq_audit_log_number", "audit_log", ["number"], unique=True)
    op.create_index(
        "ix_audit_log_unsealed",
        "audit_log",
        ["id"],
        sqlite_where=unsealed,
        postgresql_where=unsealed,
    )
    op.create_index("ix_audit_log_owner", "audit_log", ["owner", "id"])
    op.create_index("ix_audit_log_object_id", "audit_log", ["object_id", "id"])
    head = op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("seal", sa.String(), nullable=False),
        sa.Column("signature", sa.String(), nullable=False),
        sa.Column("at", UTCDateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_audit_head"),
    )
    op.bulk_insert(head, [{"id": 1, "number": 0, "seal": "", "signature": "", "at": None}])
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for statement in SQLITE if is_sqlite else POSTGRESQL:
        op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("restore a backup from before the upgrade (docs/operations.md)")
