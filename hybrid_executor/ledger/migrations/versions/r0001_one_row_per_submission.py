"""One row per submission.

Types are written out, so that what a later release does to ``tables`` leaves
this revision as it was released.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLE = "hybrid_submission"


def _key(length: int) -> sa.String:
    return sa.String(length).with_variant(
        mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
    )


def _time() -> sa.DateTime:
    return sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def upgrade() -> None:
    op.create_table(
        TABLE,
        sa.Column("attempt_id", _key(36), nullable=False),
        sa.Column("submission", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("workload_id", _key(250), nullable=False),
        sa.Column("dag_id", _key(250)),
        sa.Column("task_id", _key(250)),
        sa.Column("run_id", _key(250)),
        sa.Column("map_index", sa.Integer()),
        sa.Column("try_number", sa.Integer()),
        sa.Column("queue", sa.String(256), nullable=False),
        sa.Column("backend", sa.String(32), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("pod_template_file", sa.Text()),
        sa.Column("scheduler_job", sa.String(36), nullable=False),
        sa.Column("queued_at", _time(), nullable=False),
        sa.Column("submitted_at", _time()),
        sa.Column("started_at", _time()),
        sa.Column("ended_at", _time()),
        sa.Column("external_name", sa.Text()),
        sa.Column("ran_on", sa.Text()),
        sa.Column("waits_for", sa.String(32)),
        sa.Column("outcome", sa.String(32)),
        sa.Column("reason", sa.String(32)),
        sa.Column("message", sa.Text()),
        sa.Column("exit_code", sa.Integer()),
        sa.PrimaryKeyConstraint("attempt_id", "submission"),
    )
    op.create_index("hybrid_submission_task_idx", TABLE, ["dag_id", "run_id", "task_id", "map_index"])
    op.create_index("hybrid_submission_queued_at_idx", TABLE, ["queued_at"])
    is_open = sa.text("ended_at IS NULL")
    op.create_index(
        "hybrid_submission_open_idx",
        TABLE,
        ["ended_at", "queued_at", "scheduler_job"],
        postgresql_where=is_open,
        sqlite_where=is_open,
    )


def downgrade() -> None:
    op.drop_table(TABLE)
