"""Every filter of a list has an index with the list's order in it, and the line has its own.

Revision 0015, after 0014.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

PAGED = (("runs", ("name", "variant")), ("adapters", ("name", "variant", "base_model")))
ORDER = ("created_at", "id")


def upgrade() -> None:
    for table, filters in PAGED:
        for name in filters:
            op.create_index(f"ix_{table}_{name}_page", table, ["owner", name, *ORDER])
    for name in ("key_id", "action"):
        op.create_index(f"ix_audit_log_{name}", "audit_log", [name, "id"])
    # with the priority the other way round, whoever came first was found by sorting the line
    op.drop_index("ix_runs_claim", "runs")
    waiting = sa.text("status = 'queued'")
    op.create_index(
        "ix_runs_claim",
        "runs",
        ["owner", sa.text("priority DESC"), "queued_at", "id"],
        sqlite_where=waiting,
        postgresql_where=waiting,
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup from before the upgrade (docs/operations.md)")
