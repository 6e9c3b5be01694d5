"""Adapters made elsewhere, without a run; when each was last verified, and what was found.

Revision 0003, after 0002.
"""

import sqlalchemy as sa
from alembic import op

from finlora_core.db.models.base import UTCDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("adapters") as adapters:
        adapters.alter_column("run_id", existing_type=sa.String(), nullable=True)
        adapters.add_column(sa.Column("verified_at", UTCDateTime(timezone=True), nullable=True))
        adapters.add_column(
            sa.Column("verifying_since", UTCDateTime(timezone=True), nullable=True)
        )
        adapters.add_column(sa.Column("damage", sa.Text(), nullable=True))
    # their files were read and hashed when they were published
    op.execute("UPDATE adapters SET verified_at = created_at")
    with op.batch_alter_table("adapters") as adapters:
        adapters.alter_column(
            "verified_at", existing_type=UTCDateTime(timezone=True), nullable=False
        )
    op.create_index("ix_adapters_verified", "adapters", ["verified_at"])


def downgrade() -> None:
    raise NotImplementedError("restore a backup from before the upgrade (docs/operations.md)")
