"""Removes what ended long ago from the ledger, a batch at a time.

Never touches an attempt that has an open submission. Each batch is a
transaction of its own, of few enough rows that nobody waits for its locks, and
an interrupted run loses nothing. The command ``airflow hybrid ledger trim`` calls it.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from sqlalchemy import Engine, Select, delete, func, select, tuple_

from hybrid_executor.ledger.database import translated
from hybrid_executor.ledger.tables import submission

#: Rows in one transaction.
BATCH_ROWS = 5_000


def trim(engine: Engine, ended_before: datetime) -> Iterator[int]:
    """Delete rows of attempts that ended before a time, UTC; yields how many each batch had.

    Raises ``LedgerUnavailable``; what was deleted until then stays so.
    """
    key = tuple_(submission.c.attempt_id, submission.c.submission)
    while True:
        with translated(), engine.begin() as connection:
            found = [tuple(row) for row in connection.execute(old(ended_before, BATCH_ROWS))]
            if found:
                connection.execute(delete(submission).where(key.in_(found)))
        if found:
            yield len(found)
        if len(found) < BATCH_ROWS:
            return


def count(engine: Engine, ended_before: datetime) -> int:
    """How many rows ``trim`` would delete."""
    rows = old(ended_before, None).order_by(None).subquery()
    with translated(), engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(rows)) or 0


def old(ended_before: datetime, limit: int | None) -> Select[Any]:
    """The keys of what may go, oldest first."""
    live = submission.alias("live")
    still_open = (
        select(live.c.attempt_id)
        .where(live.c.attempt_id == submission.c.attempt_id, live.c.ended_at.is_(None))
        .exists()
    )
    return (
        select(submission.c.attempt_id, submission.c.submission)
        .where(submission.c.ended_at < ended_before, ~still_open)
        .order_by(submission.c.ended_at)
        .limit(limit)
    )
