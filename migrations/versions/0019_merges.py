"""What merges have published.

Revision 0019, after 0018.
"""

import sqlalchemy as sa
from alembic import op

from finlora_core.db.models.base import UTCDateTime

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "merged_models",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("created_at", UTCDateTime(timezone=True), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("adapter_id", sa.String(), nullable=False),
        sa.Column("fidelity", sa.JSON(), nullable=False),
        sa.Column("overridden", sa.Text(), nullable=True),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_merged_models_run_id_runs"),
        sa.ForeignKeyConstraint(
            ["adapter_id"], ["adapters.id"], name="fk_merged_models_adapter_id_adapters"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_merged_models"),
        sa.UniqueConstraint("run_id", name="uq_merged_models_run_id"),
    )
    op.create_index(
        "ix_merged_models_adapter", "merged_models", ["adapter_id", "created_at", "id"]
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup from before the upgrade (docs/operations.md)")
