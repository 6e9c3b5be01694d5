"""API keys; adapters have owners, and lists are an owner's.

Revision 0011, after 0010. Adapters take the owner of their run; imported ones `local`.
"""

import sqlalchemy as sa
from alembic import op

from finlora_core.db.models.base import UTCDateTime

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

OWNER_OF_THE_RUN = """
UPDATE adapters SET owner = COALESCE(
  (SELECT runs.owner FROM runs WHERE runs.id = adapters.run_id), 'local')
"""


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("scopes", sa.JSON(), nullable=False),
        sa.Column("secret_hmac", sa.String(), nullable=False),
        sa.Column("created_at", UTCDateTime(timezone=True), nullable=False),
        sa.Column("expires_at", UTCDateTime(timezone=True), nullable=True),
        sa.Column("revoked_at", UTCDateTime(timezone=True), nullable=True),
        sa.Column("last_used_at", UTCDateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
    )
    op.create_index("ix_api_keys_page", "api_keys", ["created_at", "id"])
    op.add_column("adapters", sa.Column("owner", sa.String(), nullable=True))
    op.execute(OWNER_OF_THE_RUN)
    with op.batch_alter_table("adapters") as adapters:
        adapters.alter_column("owner", nullable=False)
        adapters.drop_constraint("uq_adapters_variant_name_version", type_="unique")
        adapters.create_unique_constraint(
            "uq_adapters_owner_variant_name_version", ["owner", "variant", "name", "version"]
        )
        adapters.drop_index("ix_adapters_page")
        adapters.create_index("ix_adapters_page", ["owner", "created_at", "id"])
    for name, columns in (
        ("ix_runs_page", ["owner", "created_at", "id"]),
        ("ix_runs_status_page", ["owner", "status", "created_at", "id"]),
    ):
        op.drop_index(name, table_name="runs")
        op.create_index(name, "runs", columns)


def downgrade() -> None:
    raise NotImplementedError("restore a backup from before the upgrade (docs/operations.md)")
