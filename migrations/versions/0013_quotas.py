"""Quotas of keys; attempts are found by when they ended.

Revision 0013, after 0012.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("max_queued_runs", sa.Integer(), nullable=True))
    op.add_column("api_keys", sa.Column("max_stored_bytes", sa.BigInteger(), nullable=True))
    op.add_column("api_keys", sa.Column("gpu_hours_per_day", sa.Double(), nullable=True))
    op.create_index("ix_attempts_ended_at", "attempts", ["ended_at"])


def downgrade() -> None:
    raise NotImplementedError("restore a backup from before the upgrade (docs/operations.md)")
