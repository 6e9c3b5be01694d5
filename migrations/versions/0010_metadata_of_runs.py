"""Runs carry their user's own words.

Revision 0010, after 0009.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # a plain ADD COLUMN on SQLite too: copying the table would lose its trigger
    op.add_column("runs", sa.Column("metadata", sa.JSON(), nullable=True))


def downgrade() -> None:
    raise NotImplementedError("restore a backup from before the upgrade (docs/operations.md)")
