"""What an attempt waits for, in words and since when; and an index on ends, for people who ask."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from hybrid_executor.ledger.migrations.missing import add_columns, create_index

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLE = "hybrid_submission"
INDEX = "hybrid_submission_ended_at_idx"


def upgrade() -> None:
    since = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    add_columns(TABLE, sa.Column("waits_message", sa.Text()), sa.Column("waits_since", since))
    ended = sa.text("ended_at IS NOT NULL")
    create_index(INDEX, TABLE, ["ended_at"], postgresql_where=ended, sqlite_where=ended)


def downgrade() -> None:
    op.drop_index(INDEX, TABLE)
    op.drop_column(TABLE, "waits_since")
    op.drop_column(TABLE, "waits_message")
