"""How the ledger's live half stands, beside what the database says: one line of ``status``."""

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from hybrid_executor.durations import in_words
from hybrid_executor.ledger.live.config import LiveConfig
from hybrid_executor.ledger.live.reader import LiveReader, Standing
from hybrid_executor.model.errors import LiveUnavailable

#: How long ``status`` waits for it.
TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveState:
    """What is known of it at one time."""

    #: ``on``, ``off`` or ``away``.
    state: str
    #: Open submissions that the database knows.
    in_database: int
    #: Why it is away.
    why: str = ""
    standing: Standing | None = None
    #: Live schedulers that have written nothing.
    silent: tuple[str, ...] = ()

    @property
    def in_flight(self) -> int:
        return sum(self.standing.inflight.values()) if self.standing else 0

    def lag_s(self, at: datetime) -> float | None:
        """Seconds since the comparison of the scheduler that is furthest behind."""
        checked = self.standing.checked_at.values() if self.standing else ()
        return max(((at - time).total_seconds() for time in checked), default=None)

    @property
    def rebuilt_at(self) -> datetime | None:
        """When one of the schedulers last wrote all of it anew; at its start, if never since."""
        return max(self.standing.rebuilt_at.values(), default=None) if self.standing else None


def look_at(config: LiveConfig | None, schedulers: Collection[str], in_database: int) -> LiveState:
    """Ask the live half; never raises."""
    if config is None:
        return LiveState(state="off", in_database=in_database)
    reader = LiveReader(replace(config, timeout_s=min(config.timeout_s, TIMEOUT_S)))
    try:
        standing = reader.standing(schedulers)
    except LiveUnavailable as error:
        return LiveState(state="away", in_database=in_database, why=str(error))
    finally:
        reader.close()
    silent = tuple(sorted(set(schedulers) - standing.checked_at.keys()))
    return LiveState(state="on", in_database=in_database, standing=standing, silent=silent)


def line(live: LiveState, at: datetime) -> str:
    """For a terminal."""
    if live.state == "off":
        return "live ledger: off"
    if live.state == "away":
        return f"live ledger: away ({live.why}); the database alone is read"
    parts = [f"{live.in_flight} in flight, {live.in_database} in the database"]
    if live.silent:
        parts.append(f"nothing from scheduler job {', '.join(live.silent)}")
    if (lag_s := live.lag_s(at)) is not None:
        parts.append(f"compared {lag_s:.0f}s ago")
    if live.rebuilt_at:
        parts.append(f"written anew {in_words(at - live.rebuilt_at)} ago")
    return f"live ledger: {'; '.join(parts)}"


def as_json(live: LiveState, at: datetime) -> dict[str, Any]:
    """For a program."""
    return {
        "state": live.state,
        "why": live.why or None,
        "in_flight": live.in_flight if live.standing else None,
        "in_database": live.in_database,
        "lag_s": live.lag_s(at),
        "rebuilt_at": live.rebuilt_at and live.rebuilt_at.isoformat(),
        "silent_schedulers": list(live.silent),
    }
