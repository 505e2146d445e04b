"""The newest word of the Celery workers for everybody who looks, asked for in a thread of its own.

Workers are given two seconds to answer, and up to five more where messages
wait, and Airflow's API server has few threads for requests: who looks is shown
what was answered last, and waits ``PATIENCE_S`` at most where there is nothing
that is fit to be shown. Nobody is asked while nobody looks. Changes nothing.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from airflow.utils.providers_configuration_loader import providers_configuration_loaded

from hybrid_executor.model.errors import ConfigError
from hybrid_executor.settings import load_settings
from hybrid_executor.workforce import Workforce, look_at

log = logging.getLogger(__name__)

#: How old an answer may be before workers are asked again.
FRESH_S = 10.0
#: How old one may be that is still shown, while they are asked again.
STALE_S = 60.0
#: How long a request waits for the first answer; all of it comes later on a busy broker.
PATIENCE_S = 4.0


@dataclass(frozen=True, slots=True)
class Seen:
    """Who was there, and when that was."""

    force: Workforce
    at: datetime
    at_s: float


class Asking:
    """One for the process. ``ask`` never raises what it knows; it runs in a thread."""

    def __init__(
        self,
        ask: Callable[[], Workforce],
        *,
        fresh_s: float = FRESH_S,
        stale_s: float = STALE_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._ask = ask
        self._fresh_s, self._stale_s, self._patience_s = fresh_s, stale_s, patience_s
        self._lock = threading.Lock()
        self._seen: Seen | None = None
        self._answered: threading.Event | None = None

    def newest(self) -> Seen | None:
        """None while the first answer is awaited."""
        with self._lock:
            if self._answered is None and not self._is_within(self._fresh_s):
                self._answered = threading.Event()
                threading.Thread(target=self._run, name="hybrid-page-workers", daemon=True).start()
            answered, fit = self._answered, self._is_within(self._stale_s)
        if answered and not fit:
            answered.wait(self._patience_s)
        return self._seen if self._is_within(self._stale_s) else None

    def _is_within(self, age_s: float) -> bool:
        return self._seen is not None and time.monotonic() - self._seen.at_s < age_s

    def _run(self) -> None:
        try:
            force = self._ask()
        except Exception as error:
            # Whoever looks is told, and the next one asks again.
            log.exception("the Celery workers could not be asked")
            force = Workforce(
                members=None, problems=[f"the workers could not be asked: {type(error).__name__}"]
            )
        with self._lock:
            self._seen = Seen(force, datetime.now(UTC), time.monotonic())
            answered, self._answered = self._answered, None
        if answered:
            answered.set()


@providers_configuration_loaded
def ask_everybody() -> Workforce:
    """As ``airflow hybrid workers`` does."""
    try:
        return look_at(load_settings())
    except ConfigError as error:
        return Workforce(members=None, problems=[str(problem) for problem in error.problems])
