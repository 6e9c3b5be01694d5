"""Runs say how many GPUs they take, workers how many they have.

Revision 0005, after 0004.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # a plain ADD COLUMN on SQLite too: copying the table would lose its trigger
    for table in ("runs", "workers"):
        gpus = sa.Column("gpus", sa.Integer(), nullable=False, server_default="1")
        op.add_column(table, gpus)


def downgrade() -> None:
    raise NotImplementedError("restore a backup from before the upgrade (docs/operations.md)")
