"""A result says the tolerance that it was judged with.

Revision 0020, after 0019.
"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("evaluation_results", sa.Column("tolerance", sa.Double(), nullable=True))


def downgrade() -> None:
    raise NotImplementedError("restore a backup from before the upgrade (docs/operations.md)")
