"""What kind of event each one is, such as view or purchase; null where a bundle has no kinds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add the column; events from before have no kind, and count as those of the target."""
    op.add_column("events", sa.Column("kind", sa.Text))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("events", "kind")
