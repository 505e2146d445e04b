"""Sessions and engines of Airflow's metadata database, and its one failure. Has no statement of its own."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar
from uuid import UUID

from airflow import settings
from airflow.utils.session import create_session
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from hybrid_executor.model.errors import Unavailable
from hybrid_executor.model.reason import Reason

#: Task instances named in one statement; SQLite refuses more than 32,766 variables.
ROWS_AT_ONCE = 2000

T = TypeVar("T")


class MetadataUnavailable(Unavailable):
    """The metadata database does not answer."""

    reason = Reason.LEDGER_UNAVAILABLE


def metadata_engine() -> Engine:
    """Airflow's own engine, with its pool and its settings."""
    engine = settings.engine
    if engine is None:
        raise RuntimeError("Airflow's settings are not initialised: airflow.settings.configure_orm()")
    return engine


def own_session() -> AbstractContextManager[Session]:
    """A session of its own, committed at the end of the block."""
    return create_session(scoped=False)


@contextmanager
def short_session() -> Iterator[Session]:
    """A transaction of our own, apart from the scheduler's thread-local session."""
    try:
        with create_session(scoped=False) as session:
            yield session
    except SQLAlchemyError as error:
        raise MetadataUnavailable(f"the metadata database does not answer: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def uuid_or_none(text: str | None) -> str | None:
    """The attempt's name; None for what another executor wrote there."""
    try:
        return str(UUID(text)) if text else None
    except ValueError:
        return None


def chunks(items: list[T]) -> Iterator[list[T]]:
    """Parts of a list, each for one statement."""
    for start in range(0, len(items), ROWS_AT_ONCE):
        yield items[start : start + ROWS_AT_ONCE]
