"""API keys."""

from datetime import datetime

from sqlalchemy import BigInteger, Index
from sqlalchemy.orm import Mapped, mapped_column

from finlora_core.db.models.base import Base, Listed


class ApiKey(Listed, Base):
    """Revoked ones stay: what was done with them can still be told apart."""

    __tablename__ = "api_keys"
    __table_args__ = (Index("ix_api_keys_page", "created_at", "id"),)

    name: Mapped[str]
    """For people."""
    owner: Mapped[str]
    """Whose runs, datasets and adapters it opens."""
    scopes: Mapped[list[str]]
    secret_hmac: Mapped[str]
    """HMAC-SHA-256 of the secret under the server's pepper, in hex."""
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None] = mapped_column(default=None)
    """To the minute."""
    max_queued_runs: Mapped[int | None]
    max_stored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    gpu_hours_per_day: Mapped[float | None]
    """This and the two before it: `access.quota.Quota`; None for the server's default."""
