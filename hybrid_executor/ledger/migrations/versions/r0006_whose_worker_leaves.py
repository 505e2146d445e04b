"""Which Celery submissions run on a worker whose pod is on its way out, and since when.

A release that does not know the column leaves it NULL: replicas are then
counted for what a leaving worker still does, as before.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from hybrid_executor.ledger.migrations.missing import add_columns

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TABLE = "hybrid_submission"


def upgrade() -> None:
    time = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    add_columns(TABLE, sa.Column("worker_leaves_at", time))


def downgrade() -> None:
    op.drop_column(TABLE, "worker_leaves_at")
