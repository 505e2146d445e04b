"""Sends events into the broker's event exchange, as workers do, in the name of any worker.

Celery's own dispatcher makes and publishes them, so whoever follows events
(Flower, ``celery events``) sees nothing unusual. Nobody keeps an event: while
no one listens it is gone. Used by one thread, which may block here, but never
longer than the operation timeout for a message. ``hybrid_executor.flower`` calls it.
"""

from collections.abc import Sequence
from typing import Any

from celery.events import EventDispatcher

from hybrid_executor.backends.celery.broker import broker_errors, open_broker
from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.backends.celery.podevents import Event
from hybrid_executor.model.errors import BrokerUnavailable

#: Events in one message; each is some 600 bytes.
EVENTS_AT_ONCE = 100


class EventSender:
    """Holds one connection, opened when it is first needed and again after each failure."""

    def __init__(self, app: Any, config: CeleryConfig) -> None:
        self._app = app
        self._connection = open_broker(app, config.operation_timeout_s)
        self._dispatchers: dict[str, EventDispatcher] = {}

    def send(self, events: Sequence[Event]) -> None:
        """Send in order, many in a message.

        Raises ``BrokerUnavailable``; some of them may have been sent then.
        """
        try:
            with broker_errors(self._connection):
                for event in events:
                    given = {**event.fields, "timestamp": event.at.timestamp()}
                    self._dispatcher(event.hostname).send(event.type, **given)
                for dispatcher in self._dispatchers.values():
                    dispatcher.flush(errors=False)
        except BrokerUnavailable:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        # With what they had not sent: who was to hear of it asks again.
        self._dispatchers.clear()
        self._connection.release()

    def _dispatcher(self, hostname: str) -> EventDispatcher:
        if hostname not in self._dispatchers:
            self._dispatchers[hostname] = EventDispatcher(
                self._connection,
                hostname=hostname,
                app=self._app,
                # What fails is to be known here, and not to wait in a buffer without a limit.
                buffer_while_offline=False,
                buffer_group={"task"},
                buffer_limit=EVENTS_AT_ONCE,
            )
        return self._dispatchers[hostname]
