"""Connections to the broker that never block for ever, and what their errors mean.

Called by ``publish`` and ``queues``, each with a connection of its own that
one thread uses. Never retries: who calls decides when to try again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kombu.exceptions import BatchPublishError, OperationalError

from hybrid_executor.backends.celery.redaction import error_text
from hybrid_executor.model.errors import BrokerUnavailable


def open_broker(app: Any, timeout_s: float) -> Any:
    """A lazy kombu connection with the app's own settings and a limit on every wait.

    What the user set in ``[celery_broker_transport_options]`` stays as it is.
    """
    connection = app.connection_for_write(connect_timeout=timeout_s)
    options = connection.transport_options
    for name in _timeout_options(connection):
        options.setdefault(name, timeout_s)
    # Without a limit kombu tries to connect for ever. Each host of a failover list gets one try.
    options["max_retries"] = max(len(connection.alt or ()) - 1, 0)
    return connection


def speaks_redis(connection: Any) -> bool:
    """Whether queues are Redis lists that can be looked into; does not connect."""
    return bool(connection.get_transport_cls().driver_type == "redis")


def _timeout_options(connection: Any) -> tuple[str, ...]:
    match connection.get_transport_cls().driver_type:
        case "redis":
            return ("socket_timeout", "socket_connect_timeout")
        case "amqp":
            return ("read_timeout", "write_timeout")
        case _:
            return ()


@contextmanager
def broker_errors(connection: Any) -> Iterator[None]:
    """Translate what the transport raises into ``BrokerUnavailable``."""
    lost = (
        OperationalError,
        BatchPublishError,
        *connection.connection_errors,
        *connection.channel_errors,
    )
    try:
        yield
    except lost as error:
        raise BrokerUnavailable(error_text(error.__cause__ or error)) from error
