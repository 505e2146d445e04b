"""What an attempt waits for, in words and since when; and an index on ends, for people who ask.

Adds what is missing: where tables are there and their revision is not, Airflow
takes them for the first revision's, whatever release made them.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLE = "hybrid_submission"
INDEX = "hybrid_submission_ended_at_idx"


def upgrade() -> None:
    columns, indexes = _there()
    since = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    for column in (sa.Column("waits_message", sa.Text()), sa.Column("waits_since", since)):
        if column.name not in columns:
            op.add_column(TABLE, column)
    if INDEX not in indexes:
        ended = sa.text("ended_at IS NOT NULL")
        op.create_index(INDEX, TABLE, ["ended_at"], postgresql_where=ended, sqlite_where=ended)


def downgrade() -> None:
    op.drop_index(INDEX, TABLE)
    op.drop_column(TABLE, "waits_since")
    op.drop_column(TABLE, "waits_message")


def _there() -> tuple[set[str], set[str | None]]:
    if op.get_context().as_sql:  # nobody to ask: the SQL is printed
        return set(), set()
    found = sa.inspect(op.get_bind())
    columns = {column["name"] for column in found.get_columns(TABLE)}
    return columns, {index["name"] for index in found.get_indexes(TABLE)}
