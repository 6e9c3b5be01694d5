"""Comparisons of two results.

Revision 0017, after 0016.
"""

import sqlalchemy as sa
from alembic import op

from finlora_core.db.models.base import UTCDateTime

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

REFERENCES = {
    "a_result_id": ("evaluation_results.id", "CASCADE"),
    "b_result_id": ("evaluation_results.id", "CASCADE"),
    "a_adapter_id": ("adapters.id", None),
    "b_adapter_id": ("adapters.id", None),
}


def upgrade() -> None:
    op.create_table(
        "comparisons",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("created_at", UTCDateTime(timezone=True), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("a_result_id", sa.String(), nullable=False),
        sa.Column("b_result_id", sa.String(), nullable=False),
        sa.Column("a_adapter_id", sa.String(), nullable=True),
        sa.Column("b_adapter_id", sa.String(), nullable=True),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("changed_rows", sa.Integer(), nullable=False),
        sa.Column("examples", sa.JSON(), nullable=False),
        sa.Column("difference", sa.Double(), nullable=False),
        sa.Column("low", sa.Double(), nullable=False),
        sa.Column("high", sa.Double(), nullable=False),
        sa.Column("only_a", sa.Integer(), nullable=True),
        sa.Column("only_b", sa.Integer(), nullable=True),
        sa.Column("p_value", sa.Double(), nullable=True),
        sa.Column("better", sa.String(), nullable=True),
        sa.Column("verdict", sa.String(), nullable=False),
        sa.CheckConstraint("better IN ('A', 'B')", name="ck_comparisons_better"),
        sa.PrimaryKeyConstraint("id", name="pk_comparisons"),
        *(
            sa.ForeignKeyConstraint(
                [column],
                [target],
                name=f"fk_comparisons_{column}_{target.partition('.')[0]}",
                ondelete=ondelete,
            )
            for column, (target, ondelete) in REFERENCES.items()
        ),
    )
    op.create_index("ix_comparisons_page", "comparisons", ["owner", "created_at", "id"])
    for side in "ab":
        adapter = f"{side}_adapter_id"
        op.create_index(
            f"ix_comparisons_{side}_adapter", "comparisons", [adapter, "created_at", "id"]
        )


def downgrade() -> None:
    raise NotImplementedError("restore a backup from before the upgrade (docs/operations.md)")
