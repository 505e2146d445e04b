"""What the death of a running task costs: its route's ``retry_on`` and ``retry_limit``."""

import sqlalchemy as sa
from alembic import op

from hybrid_executor.ledger.migrations.missing import add_columns

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLE = "hybrid_submission"


def upgrade() -> None:
    add_columns(TABLE, sa.Column("retry_on", sa.Text()), sa.Column("retry_limit", sa.Integer()))


def downgrade() -> None:
    op.drop_column(TABLE, "retry_limit")
    op.drop_column(TABLE, "retry_on")
