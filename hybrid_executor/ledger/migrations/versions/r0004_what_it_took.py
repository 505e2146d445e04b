"""What a task's container had asked for, and what it took.

Adds what is missing: where tables are there and their revision is not, Airflow
takes them for the first revision's, whatever release made them.
"""

import sqlalchemy as sa
from alembic import op

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
    there = _columns()
    for name, kind in COLUMNS.items():
        if name not in there:
            op.add_column(TABLE, sa.Column(name, kind()))


def downgrade() -> None:
    for name in reversed(COLUMNS):
        op.drop_column(TABLE, name)


def _columns() -> set[str]:
    if op.get_context().as_sql:  # nobody to ask: the SQL is printed
        return set()
    return {column["name"] for column in sa.inspect(op.get_bind()).get_columns(TABLE)}
