"""Stages of adapters, and how they came there.

Revision 0018, after 0017.
"""

import sqlalchemy as sa
from alembic import op

from finlora_core.db.models.base import UTCDateTime

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

PRODUCTION = sa.text("stage = 'production'")


def upgrade() -> None:
    stage = sa.Column("stage", sa.String(length=16), nullable=False, server_default="candidate")
    op.add_column("adapters", stage)
    op.create_index("ix_adapters_stage_page", "adapters", ["owner", "stage", "created_at", "id"])
    op.create_index(
        "ix_adapters_name_stage_page", "adapters", ["owner", "name", "stage", "created_at", "id"]
    )
    op.create_index(
        "uq_adapters_production",
        "adapters",
        ["owner", "name"],
        unique=True,
        sqlite_where=PRODUCTION,
        postgresql_where=PRODUCTION,
    )
    op.create_table(
        "stage_moves",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("adapter_id", sa.String(), nullable=False),
        sa.Column("at", UTCDateTime(timezone=True), nullable=False),
        sa.Column("old", sa.String(length=16), nullable=False),
        sa.Column("new", sa.String(length=16), nullable=False),
        sa.Column("comparison_id", sa.String(), nullable=True),
        sa.Column("override", sa.Text(), nullable=True),
        sa.Column("replaced_by", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["adapter_id"], ["adapters.id"], name="fk_stage_moves_adapter_id_adapters"
        ),
        sa.ForeignKeyConstraint(
            ["comparison_id"],
            ["comparisons.id"],
            name="fk_stage_moves_comparison_id_comparisons",
            ondelete="SET NULL",
        ),
        sa.ForeignKeyConstraint(
            ["replaced_by"], ["adapters.id"], name="fk_stage_moves_replaced_by_adapters"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_stage_moves"),
    )
    op.create_index("ix_stage_moves_adapter", "stage_moves", ["adapter_id", "id"])


def downgrade() -> None:
    raise NotImplementedError("restore a backup from before the upgrade (docs/operations.md)")
