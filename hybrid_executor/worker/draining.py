"""The worker's end of a drain: it takes nothing more, and says what it still has.

Two ways lead to it. A thread answers on a Unix socket, whoever may use this
user's folder: ``worker.drain``, the pod's preStop hook, which works while the
broker is away. The control command ``hybrid_drain`` does the same over the
broker, for ``airflow hybrid workers drain``.

A queue is deselected before its consumer is cancelled, so that the worker
serves none after a reconnect to the broker either (ADR 16 says what else comes
of that; here it is what is wanted). Nothing that is at hand is given back, and
the process goes on until somebody ends it. There is no way back but a restart.

Imported by the worker, where its settings name it:
``[celery] extra_celery_config = {"imports": ["hybrid_executor.worker.draining"]}``.
"""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterable
from typing import Any

from celery.signals import worker_ready
from celery.worker.control import control_command
from celery.worker.state import reserved_requests

from hybrid_executor.worker.drain import own_folder

log = logging.getLogger(__name__)

#: After a failure, for one of the process (too many open files) lasts a while.
PAUSE_S = 0.2


def begin(consumer: Any) -> int:
    """Take nothing more; return how many messages are at hand. Harmless to repeat; from any thread."""
    queues = consumer.app.amqp.queues
    if names := list(queues.consume_from):
        log.warning("draining: takes nothing more from %s", ", ".join(names))
        queues.deselect(names)
        # From the event loop, which alone may use the connection.
        consumer.call_soon(_cancel, consumer, names)
    return len(reserved_requests)


def _cancel(consumer: Any, names: Iterable[str]) -> None:
    # Each by its name, so that the worker itself says that it serves none.
    for name in names if consumer.task_consumer else ():
        consumer.task_consumer.cancel_by_queue(name)


@control_command()  # type: ignore[untyped-decorator]
def hybrid_drain(state: Any) -> dict[str, Any]:
    """Take nothing more, and go on with what is at hand."""
    return {"ok": "draining", "at_hand": begin(state.consumer)}


@worker_ready.connect  # type: ignore[untyped-decorator]
def listen(sender: Any, **_: Any) -> None:
    """Answer ``worker.drain`` from now on; a worker that can't works on without."""
    try:
        path = own_folder() / f"{os.getpid()}.sock"
        path.unlink(missing_ok=True)
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.listen()
    except OSError as error:
        log.error("this worker can't be drained by its preStop hook: %s", error)  # noqa: TRY400
        return
    threading.Thread(target=_answer, args=(server, sender), name="hybrid-drain", daemon=True).start()


def _answer(server: socket.socket, consumer: Any) -> None:
    while True:
        try:
            connection, _ = server.accept()
            with connection:
                left = {"name": consumer.hostname, "at_hand": begin(consumer)}
                connection.sendall(json.dumps(left).encode())
        except OSError as error:
            log.info("whoever asked to drain got no answer: %s", error)
            time.sleep(PAUSE_S)
