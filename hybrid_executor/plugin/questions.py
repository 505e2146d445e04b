"""What may be asked of the page, with its limits: what is no question answers 422 and reaches no database."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from hybrid_executor.ledger.queries import Place
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Outcome, Stage

#: Submissions on one page; a row with the longest ids takes some 4 KB, and no answer may take 200.
ROWS_MAX = 40
#: Years in which somebody may have queued something; databases differ in what else they take for a time.
YEARS = range(2000, 2200)


def _nothing_if_empty(value: Any) -> Any:
    """A form sends every field, also those that were left alone."""
    return None if value == "" else value


def _plain(text: str) -> str:
    if "\x00" in text:
        raise ValueError("holds the character NUL, which no id has")
    return text


def _utc(time: datetime) -> datetime:
    """In UTC, which is also meant where no zone is named."""
    if time.year not in YEARS:
        raise ValueError(f"is not between the years {YEARS[0]} and {YEARS[-1]}")
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


def _place(mark: str) -> str:
    Place.at(mark)
    return mark


_Empty = BeforeValidator(_nothing_if_empty)
Word = Annotated[str, Field(min_length=1, max_length=250), AfterValidator(_plain)]
Time = Annotated[datetime, AfterValidator(_utc)]
#: What the address of Airflow's tab has in place of the map index of a task that is not mapped.
NO_INDEX = "{MAP_INDEX}"
MapIndex = Annotated[
    Annotated[int, Field(ge=-1, lt=2**31)] | None,
    BeforeValidator(lambda value: None if value in ("", NO_INDEX) else value),
]


class Search(BaseModel):
    """Which submissions of the ledger; what is left out asks for no matter which."""

    model_config = ConfigDict(extra="forbid")

    dag_id: Annotated[Word | None, _Empty] = None
    run_id: Annotated[Word | None, _Empty] = None
    task_id: Annotated[Word | None, _Empty] = None
    map_index: MapIndex = None
    backend: Annotated[BackendName | None, _Empty] = None
    queue: Annotated[Word | None, _Empty] = None
    state: Annotated[Stage | Outcome | None, _Empty] = None
    reason: Annotated[Reason | None, _Empty] = Field(
        None, description="What it ended for, or waits for while it is open."
    )
    since: Annotated[Time | None, _Empty] = Field(
        None,
        description="Queued then or later; in UTC where no zone is named; a day ago where it is left out.",
    )
    until: Annotated[Time | None, _Empty] = Field(None, description="Queued before then.")
    after: Annotated[Annotated[str, Field(max_length=250), AfterValidator(_place)] | None, _Empty] = Field(
        None, description="Where the page before ended: its `following`."
    )
    limit: int = Field(ROWS_MAX, ge=1, le=ROWS_MAX)


class RunQuestion(BaseModel):
    """Which run."""

    model_config = ConfigDict(extra="forbid")

    dag_id: Word
    run_id: Word


class WorkersQuestion(BaseModel):
    """Which Celery workers; what is left out asks for no matter which."""

    model_config = ConfigDict(extra="forbid")

    pool: Annotated[Word | None, _Empty] = None
    state: Annotated[Word | None, _Empty] = None
    after: Annotated[Word | None, _Empty] = Field(
        None, description="Where the page before ended: its `following`."
    )
    limit: int = Field(ROWS_MAX, ge=1, le=ROWS_MAX)


class TaskQuestion(BaseModel):
    """Which task of which run; all of its mapped instances without an index."""

    model_config = ConfigDict(extra="forbid")

    dag_id: Word
    run_id: Word
    task_id: Word
    map_index: MapIndex = None
