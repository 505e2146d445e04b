"""The ledger's table, a row per submission with what is known of its attempt; and two small ones beside it.

Declares columns and indexes and nothing else; ``statements`` writes SQL over
it, ``migrations`` brings it into a database. What Flower was told, and by whom,
is no part of a submission and has tables of its own (``flower``), so that no
heartbeat waits for them. The tables stand in a MetaData of
their own, so that Airflow's migrations never see them, and refer to none of
Airflow's tables, so that a task instance that is cleared or deleted takes no
history with it.

Ids are text, not a native UUID type, because ``external_executor_id``, which
they are compared with, is text in Airflow's own tables and need not hold a UUID.
"""

from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Double,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.types import TypeEngine

#: MySQL's TEXT ends at 65,535 bytes, and a character takes up to 4.
TEXT_MAX = 16_000


class UtcTime(TypeDecorator[datetime]):
    """An aware time in UTC with microseconds, on every database.

    MySQL gets DATETIME: its TIMESTAMP ends in 2038, depends on the session's
    time zone, and, where NOT NULL, may rewrite itself at every UPDATE.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[datetime]:
        if dialect.name in ("mysql", "mariadb"):
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("the ledger takes aware times only")
        in_utc = value.astimezone(UTC)
        return in_utc if dialect.name == "postgresql" else in_utc.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 (SQLAlchemy's signature)
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class CleanText(TypeDecorator[str]):
    """Text from outside that any database accepts, cut to ``limit`` characters.

    A worker's or a container's message may hold NUL (which PostgreSQL refuses)
    or broken surrogates (which no driver encodes); one such row would keep its
    whole batch out of the ledger for ever.
    """

    impl = Text
    cache_ok = True

    def __init__(self, limit: int = TEXT_MAX) -> None:
        super().__init__()
        self.limit = limit

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[str]:
        return dialect.type_descriptor(String(self.limit) if self.limit < TEXT_MAX else Text())

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002 (SQLAlchemy's)
        if value is None:
            return None
        encodable = value[: self.limit].encode("utf-8", "replace").decode("utf-8")
        return encodable.replace("\x00", "\N{REPLACEMENT CHARACTER}")


def _key(length: int) -> String:
    """Text that is compared by its bytes, as Airflow compares its ids."""
    return String(length).with_variant(
        mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), "mysql", "mariadb"
    )


metadata = MetaData()

submission = Table(
    "hybrid_submission",
    metadata,
    Column("attempt_id", _key(36), primary_key=True),
    Column("submission", Integer, primary_key=True, autoincrement=False),
    Column("kind", String(32), nullable=False),
    #: ``task_instance.id`` of a task, the callback's or the connection test's id.
    Column("workload_id", _key(250), nullable=False),
    # The task's key; NULL for callbacks and connection tests.
    Column("dag_id", _key(250)),
    Column("task_id", _key(250)),
    Column("run_id", _key(250)),
    Column("map_index", Integer),
    Column("try_number", Integer),
    Column("queue", CleanText(256), nullable=False),
    Column("backend", String(32), nullable=False),
    Column("rule", CleanText(), nullable=False),
    Column("pod_template_file", CleanText()),
    #: The scheduler's job id that answers for the submission.
    Column("scheduler_job", String(36), nullable=False),
    Column("queued_at", UtcTime(), nullable=False),
    Column("submitted_at", UtcTime()),
    Column("started_at", UtcTime()),
    Column("ended_at", UtcTime()),
    #: The Celery task id, or ``namespace/pod``.
    Column("external_name", CleanText()),
    #: The Celery worker, or ``pod on node``.
    Column("ran_on", CleanText()),
    Column("waits_for", String(32)),
    Column("outcome", String(32)),
    Column("reason", String(32)),
    Column("message", CleanText()),
    Column("exit_code", Integer),
    #: Reasons, separated by commas; NULL where the route has none.
    Column("retry_on", CleanText()),
    Column("retry_limit", Integer),
    # What ``waits_for`` means here, in words, and since when it is so.
    Column("waits_message", CleanText()),
    Column("waits_since", UtcTime()),
    # What the task's container had asked for and took; NULL where nobody said.
    Column("cpu_request_m", BigInteger),
    Column("memory_request_bytes", BigInteger),
    Column("memory_limit_bytes", BigInteger),
    Column("cpu_peak_m", BigInteger),
    Column("cpu_used_s", Double),
    Column("memory_peak_bytes", BigInteger),
    #: Its name in the clusters file; NULL is that of ``[kubernetes_executor]``.
    Column("cluster", String(63)),
    #: When its worker's pod was seen to be on its way out; NULL while that is to stay.
    Column("worker_leaves_at", UtcTime()),
    Index("hybrid_submission_task_idx", "dag_id", "run_id", "task_id", "map_index"),
    Index("hybrid_submission_queued_at_idx", "queued_at"),
)

# What is open is a sliver of the table: where an index can hold that alone, it
# stays as small as the work in flight, however long the history grows. MySQL
# has no partial indexes; there the leading column finds the same rows.
_OPEN = text("ended_at IS NULL")
Index(
    "hybrid_submission_open_idx",
    submission.c.ended_at,
    submission.c.queued_at,
    submission.c.scheduler_job,
    postgresql_where=_OPEN,
    sqlite_where=_OPEN,
)
# For people who ask what has ended lately.
_ENDED = text("ended_at IS NOT NULL")
Index(
    "hybrid_submission_ended_at_idx",
    submission.c.ended_at,
    postgresql_where=_ENDED,
    sqlite_where=_ENDED,
)

lease = Table(
    "hybrid_lease",
    metadata,
    Column("name", _key(32), primary_key=True),
    #: One process.
    Column("holder", _key(64), nullable=False),
    Column("held_until", UtcTime(), nullable=False),
)

#: How far Flower was told of a submission (``podevents.Told``); kept until a while after its end.
flower = Table(
    "hybrid_flower",
    metadata,
    Column("attempt_id", _key(36), primary_key=True),
    Column("submission", Integer, primary_key=True, autoincrement=False),
    Column("told", Integer, nullable=False),
    Column("told_at", UtcTime(), nullable=False),
)
