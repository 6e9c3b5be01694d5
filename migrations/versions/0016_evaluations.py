"""Runs of several kinds, and what evaluations have found.

Revision 0016, after 0015.
"""

import sqlalchemy as sa
from alembic import op

from finlora_core.db.models.base import UTCDateTime

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

PAGES: tuple[tuple[str, list[str]], ...] = (
    ("ix_runs_page", []),
    ("ix_runs_status_page", ["status"]),
    ("ix_runs_name_page", ["name"]),
    ("ix_runs_variant_page", ["variant"]),
)


def upgrade() -> None:
    kind = sa.Column("kind", sa.String(length=16), nullable=False, server_default="training")
    op.add_column("runs", kind)
    for name, filters in PAGES:
        op.drop_index(name, "runs")
        op.create_index(name, "runs", ["owner", "kind", *filters, "created_at", "id"])
    op.create_table(
        "evaluation_results",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("created_at", UTCDateTime(timezone=True), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("adapter_id", sa.String(), nullable=True),
        sa.Column("base_model", sa.String(), nullable=False),
        sa.Column("quant_bits", sa.Integer(), nullable=True),
        sa.Column("task", sa.String(), nullable=True),
        sa.Column("dataset_path", sa.String(), nullable=False),
        sa.Column("dataset_sha256", sa.String(), nullable=False),
        sa.Column("prompt_format", sa.String(length=16), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("rows_sha256", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("low", sa.Double(), nullable=True),
        sa.Column("high", sa.Double(), nullable=True),
        sa.Column("summary", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["run_id"],
            ["runs.id"],
            name="fk_evaluation_results_run_id_runs",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["adapter_id"], ["adapters.id"], name="fk_evaluation_results_adapter_id_adapters"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_evaluation_results"),
    )
    op.create_index("ix_evaluation_results_run", "evaluation_results", ["run_id", "id"])
    op.create_index(
        "ix_evaluation_results_adapter", "evaluation_results", ["adapter_id", "created_at", "id"]
    )
    op.create_index(
        "ix_evaluation_results_page", "evaluation_results", ["owner", "created_at", "id"]
    )
    op.create_table(
        "evaluation_outputs",
        sa.Column("result_id", sa.String(), nullable=False),
        sa.Column("jsonl", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["result_id"],
            ["evaluation_results.id"],
            name="fk_evaluation_outputs_result_id_evaluation_results",
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("result_id", name="pk_evaluation_outputs"),
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup from before the upgrade (docs/operations.md)")
