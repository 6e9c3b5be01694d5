"""Runs remember the dataset that they validate on, where that is one of its own.

Revision 0004, after 0003.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # a plain ADD COLUMN on SQLite too: copying the table would lose its trigger
    op.add_column("runs", sa.Column("validation_sha256", sa.String(), nullable=True))


def downgrade() -> None:
    raise NotImplementedError("restore a backup from before the upgrade (docs/operations.md)")
