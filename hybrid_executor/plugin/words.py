"""How the page's templates say times, durations and links. Pure."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup, escape

from hybrid_executor.durations import in_words
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Outcome, Stage
from hybrid_executor.plugin import charts
from hybrid_executor.plugin.questions import Search, WorkersQuestion
from hybrid_executor.runcount import Place
from hybrid_executor.workforce import STATES as WORKER_STATES


def age(then: datetime | None, now: datetime) -> Markup:
    """How long since then, which the page's script keeps true, with the time for who points at it."""
    if then is None:
        return Markup("")
    return Markup('<time datetime="{}" title="{} UTC" data-ago>{}</time>').format(
        then.astimezone(UTC).isoformat(), clock(then), in_words(now - then)
    )


def ago(then: datetime | None, now: datetime) -> Markup:
    """How long ago that was."""
    return age(then, now) + Markup(" ago") if then else Markup("")


def clock(then: datetime) -> str:
    """A time in UTC to the second."""
    return f"{then.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def code(text: str) -> Markup:
    """Words in which commands stand between backticks."""
    parts = [escape(part) for part in text.split("`")]
    return Markup("").join(Markup("<code>{}</code>").format(p) if i % 2 else p for i, p in enumerate(parts))


def field_time(then: datetime | None) -> str:
    """A time as a form's field has it."""
    return f"{then.astimezone(UTC):%Y-%m-%dT%H:%M}" if then else ""


def took(begin: datetime | None, end: datetime | None, now: datetime) -> Markup | str:
    """How long something took, or takes so far."""
    if begin is None:
        return ""
    return in_words(end - begin) if end else age(begin, now)


def query(search: Search | WorkersQuestion, **other: Any) -> str:
    """The question again, with other values for some of its parts."""
    asked = search.model_dump(mode="json", exclude_defaults=True, exclude={"after"}) | other
    return urlencode({name: value for name, value in asked.items() if value is not None})


FILTERS: Mapping[str, Callable[..., Any]] = {
    "age": age,
    "ago": ago,
    "clock": clock,
    "code": code,
    "field_time": field_time,
    "took": took,
    "query": query,
    "seconds": charts.seconds,
}
GLOBALS: Mapping[str, Any] = {
    "OUTCOMES": list(Outcome),
    "BACKENDS": list(BackendName),
    "STATES": [*Stage, *Outcome],
    "STAGES": list(Stage),
    "MEANINGS": (
        "Queued: with its scheduler. Submitted: with its backend, not started. Airflow calls both queued."
        " Succeeded: its process ended well; how the task did, Airflow knows. Replaced: it ended before"
        " the task had started, and was sent again. Restarted: it died while the task ran, and Airflow"
        " runs the task again. Revoked: withdrawn."
    ),
    "AS_OF": (
        "Numbers in the words of a wait are of the scheduler's last look, a few seconds ago while it lives."
    ),
    "PLACES": list(Place),
    "WORKER_STATES": WORKER_STATES,
    "REASONS": sorted(Reason),
    "charts": charts,
}
