"""A control command for Celery workers: give up the connection to the broker and make a new one.

For a worker that is connected and takes nothing (celery#8030). Celery itself
has no such command, and ``cancel_consumer`` with ``add_consumer`` is none: the
queue is gone at the next reconnect. What the worker's pool runs goes on, as at
any lost connection; the executor tells only workers that have nothing at hand.

Imported by the worker where ``worker.celery_settings`` are its settings, or by
``[celery] extra_celery_config = {"imports": ["hybrid_executor.worker.reconnect"]}``.
"""

from typing import Any

from celery.worker.control import control_command


@control_command()  # type: ignore[untyped-decorator]
def hybrid_reconnect(state: Any) -> dict[str, str]:
    """Reconnect to the broker."""
    # From the event loop, where an error of the connection means a new one; here it would only be logged.
    state.consumer.call_soon(_give_up)
    return {"ok": "reconnecting"}


def _give_up() -> None:
    raise ConnectionResetError("told to reconnect by the executor")
