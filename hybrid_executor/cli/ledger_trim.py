"""``airflow hybrid ledger trim``: removes rows of attempts that ended long ago."""

from argparse import Namespace
from datetime import UTC, datetime

from airflow.utils.cli import action_cli, suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

from hybrid_executor import contract
from hybrid_executor.cli.ledger import reading
from hybrid_executor.durations import in_words
from hybrid_executor.ledger import retention


@action_cli(check_db=False)  # type: ignore[no-untyped-call, untyped-decorator]
@suppress_logs_and_warning
@providers_configuration_loaded
def trim(args: Namespace) -> None:
    """Delete in batches, and say how many rows went."""
    engine = contract.metadata_engine()
    before = datetime.now(UTC) - args.older_than
    ago = in_words(args.older_than)
    with reading():
        if args.dry_run:
            print(f"{retention.count(engine, before)} rows would be removed that ended {ago} ago or earlier")
            return
        removed = 0
        try:
            for rows in retention.trim(engine, before):
                removed += rows
        finally:
            print(f"{removed} rows removed that ended {ago} ago or earlier")
