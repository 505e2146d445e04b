"""Claims: a worker's word that it starts a message. The only keys of the live half that no scheduler writes.

Each call is one round trip over a connection of its own, since the callers are
pool processes that start a task now and then. Raises ``LiveUnavailable`` only.
``worker.claim`` calls it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from hybrid_executor.ledger.live.config import LiveConfig
from hybrid_executor.ledger.live.connection import Client, open_client, translated
from hybrid_executor.ledger.live.schema import CLAIM_OVER_S, Keys


class Claims:
    """Claims of one Airflow."""

    def __init__(self, config: LiveConfig, *, life_s: int) -> None:
        """``life_s`` is how long a claim whose task never ends is kept."""
        self._config = config
        self._keys = Keys(config.prefix)
        self._life_s = life_s

    def claim(self, name: str) -> bool:
        """Whether this is the first start of that message."""
        with self._connected() as client:
            return bool(client.set(self._keys.start(name), "1", nx=True, ex=self._life_s))

    def over(self, name: str) -> None:
        """What the claim was for has ended: it need not be kept for long, for Airflow refuses a start now."""
        with self._connected() as client:
            client.expire(self._keys.start(name), CLAIM_OVER_S)

    @contextmanager
    def _connected(self) -> Iterator[Client]:
        client = open_client(self._config)
        try:
            with translated():
                yield client
        finally:
            client.close()
