"""Whether a database's ledger is as new as this release needs.

Reads the version table and nothing else; needs neither Alembic nor Airflow.
``start()`` and ``airflow hybrid doctor`` ask. A database that is newer than
the code is fine: releases expand the table first and contract it a release
later, so that schedulers of two releases run side by side during an upgrade.
"""

from sqlalchemy import Engine, column, select, table
from sqlalchemy.exc import SQLAlchemyError

from hybrid_executor.ledger.database import MIGRATE_COMMAND, explain

#: Ours, beside Airflow's own ``alembic_version``.
VERSION_TABLE = "alembic_version_hybrid_executor"
#: Every revision of ``migrations/versions``, oldest first.
REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007")

_VERSION = table(VERSION_TABLE, column("version_num"))


def current_problem(engine: Engine) -> str | None:
    """Why the ledger can't be used and the command that mends it; None if it can be used."""
    try:
        with engine.connect() as connection:
            revision = connection.scalar(select(_VERSION.c.version_num))
    except SQLAlchemyError as error:
        return explain(error)
    if revision is None or revision in REVISIONS[:-1]:
        have = f"at revision {revision}" if revision else "not migrated"
        return f"the ledger's table is {have} and this release needs {REVISIONS[-1]}: run `{MIGRATE_COMMAND}`"
    return None
