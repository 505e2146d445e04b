"""What a task's container had asked for, and what it took."""

import sqlalchemy as sa
from alembic import op

from hybrid_executor.ledger.migrations.missing import add_columns

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLE = "hybrid_submission"
COLUMNS = {
    "cpu_request_m": sa.BigInteger,
    "memory_request_bytes": sa.BigInteger,
    "memory_limit_bytes": sa.BigInteger,
    "cpu_peak_m": sa.BigInteger,
    "cpu_used_s": sa.Double,
    "memory_peak_bytes": sa.BigInteger,
}


def upgrade() -> None:
    add_columns(TABLE, *(sa.Column(name, kind()) for name, kind in COLUMNS.items()))


def downgrade() -> None:
    for name in reversed(COLUMNS):
        op.drop_column(TABLE, name)
