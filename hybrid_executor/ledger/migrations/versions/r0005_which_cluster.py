"""In which cluster the pod of a submission is: its route's ``cluster``.

Adds what is missing, as 0002 does. A release that does not know the column
leaves it NULL, which is the only cluster that it knows.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TABLE = "hybrid_submission"


def upgrade() -> None:
    if "cluster" not in _columns():
        op.add_column(TABLE, sa.Column("cluster", sa.String(63)))


def downgrade() -> None:
    op.drop_column(TABLE, "cluster")


def _columns() -> set[str]:
    if op.get_context().as_sql:  # nobody to ask: the SQL is printed
        return set()
    return {column["name"] for column in sa.inspect(op.get_bind()).get_columns(TABLE)}
