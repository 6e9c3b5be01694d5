"""A run that never started, and an audit entry without its place, are in no index of those.

Each index that a new row is in is one page more to write at its commit.

Revision 0021, after 0020.
"""

from alembic import op
from sqlalchemy import text

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _replace("ix_runs_turn", "runs", ["owner", "started_at"])
    _replace("uq_audit_log_number", "audit_log", ["number"], unique=True)


def _replace(name: str, table: str, columns: list[str], *, unique: bool = False) -> None:
    is_there = text(f"{columns[-1]} IS NOT NULL")
    op.drop_index(name, table)
    op.create_index(
        name,
        table,
        columns,
        unique=unique,
        sqlite_where=is_there,
        postgresql_where=is_there,
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup from before the upgrade (docs/operations.md)")
