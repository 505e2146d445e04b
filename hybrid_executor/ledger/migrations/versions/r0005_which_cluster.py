"""In which cluster the pod of a submission is: its route's ``cluster``.

A release that does not know the column
leaves it NULL, which is the only cluster that it knows.
"""

import sqlalchemy as sa
from alembic import op

from hybrid_executor.ledger.migrations.missing import add_columns

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TABLE = "hybrid_submission"


def upgrade() -> None:
    add_columns(TABLE, sa.Column("cluster", sa.String(63)))


def downgrade() -> None:
    op.drop_column(TABLE, "cluster")
