"""Alembic's environment for the ledger: our metadata, our version table.

Airflow hands its engine in through ``LedgerDBManager``; run by hand, Alembic
takes the URL from ``-x url=…``. Logging is left as the caller configured it.
"""

from typing import Any

from alembic import context
from sqlalchemy import create_engine

from hybrid_executor.ledger.revisions import VERSION_TABLE
from hybrid_executor.ledger.tables import metadata


def _configure(**where: Any) -> None:
    context.configure(
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        render_as_batch=True,
        # Airflow's tables share the database; autogenerate must not drop them.
        include_name=lambda name, kind, _: kind != "table" or name in metadata.tables,
        **where,
    )


def _url() -> str | None:
    return context.get_x_argument(as_dictionary=True).get("url") or context.config.get_main_option(
        "sqlalchemy.url"
    )


def _run_offline() -> None:
    _configure(url=_url(), literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def _run_online() -> None:
    engine = context.config.attributes.get("engine") or create_engine(_url() or "")
    with engine.connect() as connection:
        _configure(connection=connection, transaction_per_migration=True)
        with context.begin_transaction():
            context.run_migrations()


if context.is_offline_mode():
    _run_offline()
else:
    _run_online()
