"""Idempotency keys belong to a client: two clients may use the same one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Put the client into the primary key; requests answered before belong to no client."""
    _replace_table(
        [
            sa.Column("client", sa.Text, primary_key=True),
            sa.Column("key", sa.Text, primary_key=True),
        ],
        "INSERT INTO answered (client, key, digest, time) "
        "SELECT '', key, digest, time FROM answered_before",
    )


def downgrade() -> None:
    """Take it out again; of a key that several clients have used, one answer is kept."""
    _replace_table(
        [sa.Column("key", sa.Text, primary_key=True)],
        "INSERT INTO answered (key, digest, time) "
        "SELECT key, min(digest), max(time) FROM answered_before GROUP BY key",
    )


def _replace_table(primary_key: list[sa.Column[str]], copy: str) -> None:
    """A new table with the rows of the old one: SQLite cannot change a primary key."""
    op.drop_index("ix_answered_time", "answered")
    op.rename_table("answered", "answered_before")
    op.create_table(
        "answered",
        *primary_key,
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False, index=True),
    )
    op.execute(copy)
    op.drop_table("answered_before")
