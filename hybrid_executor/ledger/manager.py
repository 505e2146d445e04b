"""Airflow's door to the ledger's migrations: an external DB manager.

``airflow db migrate``, ``check-migrations`` and ``reset`` find it through the
provider's metadata (``db-managers``), with no setting by the user. It knows
where the migrations stand and hands them Airflow's engine; what they do stands
in ``migrations``.
"""

from importlib.resources import files
from typing import Any

from airflow import settings
from airflow.utils.db_manager import BaseDBManager

from hybrid_executor.ledger.revisions import VERSION_TABLE
from hybrid_executor.ledger.tables import metadata

_HERE = files("hybrid_executor.ledger")


class LedgerDBManager(BaseDBManager):
    """Creates, upgrades, downgrades and drops the ledger's tables."""

    metadata = metadata
    version_table_name = VERSION_TABLE
    migration_dir = str(_HERE / "migrations")
    alembic_file = str(_HERE / "alembic.ini")
    supports_table_dropping = True
    #: The newest revision of each release that brought one, in ascending order.
    revision_heads_map = {"0.1.0": "0007"}  # noqa: RUF012 (the base class declares it so)

    def get_alembic_config(self) -> Any:
        """The base class's configuration, with the engine that Airflow has configured."""
        config = super().get_alembic_config()  # type: ignore[no-untyped-call]
        config.attributes["engine"] = settings.get_engine()  # type: ignore[no-untyped-call]
        return config

    def downgrade(
        self, to_revision: str, from_revision: str | None = None, show_sql_only: bool = False
    ) -> None:
        """Go back to a revision, or to ``base``, which drops the table with all history.

        ``from_revision`` is meant for ``show_sql_only``, which prints the SQL and runs nothing.
        """
        from alembic import command  # noqa: PLC0415 (slow, and executors import this module's neighbours)

        if from_revision and not show_sql_only:
            raise ValueError("from_revision goes with show_sql_only alone: a downgrade starts where it is")
        start = from_revision or self.get_current_revision()  # type: ignore[no-untyped-call]
        # An open read would keep the DDL waiting.
        self.session.rollback()
        command.downgrade(
            self.get_alembic_config(),
            f"{start}:{to_revision}" if show_sql_only else to_revision,
            sql=show_sql_only,
        )
