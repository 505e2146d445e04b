"""Which scheduler tells Flower of pods, and what it has told.

A release that does not know the tables leaves them alone: Flower then shows
what it was told so far, and hears the rest once a release that knows them is back.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

from hybrid_executor.ledger.migrations.missing import create_table

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

LEASE, TOLD = "hybrid_lease", "hybrid_flower"


def _key(length: int) -> sa.String:
    return sa.String(length).with_variant(
        mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
    )


def _time() -> sa.DateTime:
    return sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def upgrade() -> None:
    create_table(
        LEASE,
        sa.Column("name", _key(32), primary_key=True),
        sa.Column("holder", _key(64), nullable=False),
        sa.Column("held_until", _time(), nullable=False),
    )
    create_table(
        TOLD,
        sa.Column("attempt_id", _key(36), primary_key=True),
        sa.Column("submission", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("told", sa.Integer(), nullable=False),
        sa.Column("told_at", _time(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table(TOLD)
    op.drop_table(LEASE)
