"""Events, users, items, who must be forgotten, keys, and requests that were answered already."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # only INTEGER counts by itself


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "events",
        sa.Column("id", COUNTER, primary_key=True, autoincrement=True),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("item_id", sa.Text, nullable=False),
        sa.Column("value", sa.Float),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("request_id", sa.Text),
    )
    op.create_index("events_of_users", "events", ["user_id", "item_id"])
    for table in ("users", "items"):
        op.create_table(
            table,
            sa.Column("id", sa.Text, primary_key=True),
            sa.Column("fields", sa.Text, nullable=False),
            sa.Column("updated", sa.BigInteger, nullable=False),
        )
    op.create_table("forgotten", sa.Column("digest", sa.Text, primary_key=True))
    op.create_table(
        "keys",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("digest", sa.Text, nullable=False, unique=True),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("revoked", sa.BigInteger),
    )
    op.create_table(
        "answered",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False, index=True),
    )


def downgrade() -> None:
    """Drop the tables."""
    for table in ("answered", "keys", "forgotten", "items", "users", "events"):
        op.drop_table(table)
