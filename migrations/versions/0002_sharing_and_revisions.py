"""Projects say whether they share their measurements, and targets count the measurements that they got.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels: str | None = None
depends_on: str | None = None


def upgrade() -> None:
    """Nobody has agreed to share yet, and every count begins anew."""
    op.add_column(
        "projects",
        sa.Column("shares_measurements", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    op.add_column("targets", sa.Column("revision", sa.Integer(), nullable=False, server_default=sa.text("0")))


def downgrade() -> None:
    """What projects agreed to is forgotten."""
    op.drop_column("targets", "revision")
    op.drop_column("projects", "shares_measurements")
