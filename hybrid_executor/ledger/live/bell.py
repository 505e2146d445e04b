"""Wakes who waits for a submission: at its next transition where the live half answers, else after a pause.

Only says when to look; what there is to see, the database says. A server that
is away is left alone for a while, by all bells of this process. ``results``
rings it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from hybrid_executor.ledger.live.config import LiveConfig
from hybrid_executor.ledger.live.reader import LiveReader
from hybrid_executor.model.errors import LiveUnavailable

#: The longest that anybody who waits is held up by a server that hangs, seconds.
TIMEOUT_S = 2.0
#: For how long a server that did not answer is not asked again.
ALONE_S = 30.0

#: Until when; by prefix, for a URL may hold a password.
_alone_until_s: dict[str, float] = {}


class Bell:
    """Listens for the transitions that ``is_wanted`` wants."""

    def __init__(self, config: LiveConfig | None, is_wanted: Callable[[Mapping[str, str]], bool]) -> None:
        self._config = config
        self._is_wanted = is_wanted
        self._reader: LiveReader | None = None
        self._place = ""

    def listen(self, within_s: float) -> bool:
        """Hear all that happens from now on; False where the live half is off or away."""
        config = self._config
        if self._reader:
            return True
        if config is None or time.monotonic() < _alone_until_s.get(config.prefix, 0.0):
            return False
        timeout_s = min(config.timeout_s, TIMEOUT_S, max(within_s, 0.1))
        self._reader = LiveReader(replace(config, timeout_s=timeout_s))
        try:
            self._place = self._reader.last_transition()
        except LiveUnavailable:
            self._leave_alone(config)
            return False
        return True

    def wait(self, pause_s: float, longest_s: float) -> None:
        """Until it rings, ``longest_s`` at the most; for ``pause_s`` where there is nothing to listen to."""
        if self._reader and self._config:
            try:
                self._place = self._reader.listen(self._place, self._is_wanted, longest_s)
                return
            except LiveUnavailable:
                self._leave_alone(self._config)
        time.sleep(pause_s)

    def close(self) -> None:
        """Close the connection."""
        reader, self._reader = self._reader, None
        if reader:
            reader.close()

    def _leave_alone(self, config: LiveConfig) -> None:
        self.close()
        _alone_until_s[config.prefix] = time.monotonic() + ALONE_S
