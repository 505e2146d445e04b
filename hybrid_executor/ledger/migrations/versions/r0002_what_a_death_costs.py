"""What the death of a running task costs: its route's ``retry_on`` and ``retry_limit``.

Adds what is missing: where tables are there and their revision is not, Airflow
takes them for the first revision's, whatever release made them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TABLE = "hybrid_submission"


def upgrade() -> None:
    there = _columns()
    for column in (sa.Column("retry_on", sa.Text()), sa.Column("retry_limit", sa.Integer())):
        if column.name not in there:
            op.add_column(TABLE, column)


def downgrade() -> None:
    op.drop_column(TABLE, "retry_limit")
    op.drop_column(TABLE, "retry_on")


def _columns() -> set[str]:
    if op.get_context().as_sql:  # nobody to ask: the SQL is printed
        return set()
    return {column["name"] for column in sa.inspect(op.get_bind()).get_columns(TABLE)}
