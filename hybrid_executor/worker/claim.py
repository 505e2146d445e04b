"""Starts a Celery message once: a worker claims the message's id before it asks Airflow for leave to run.

A broker may deliver a message again: after a visibility timeout, after a
worker's death, out of an old dump file. Airflow's Execution API refuses a second
start, but for a process that looks the same to it: same host name, user and
process id, as a worker has that was reborn in a container of the same name. So
the first start of an id leaves a key on the server of the ledger's live half, and
a later one finds it, asks nobody, and ends as one that Celery ignores: it stores
no failure. No submission's id is ever used twice, so nobody else is kept out.

Where the server does not answer, or there is none, the task starts: Airflow's
own fence is there in any case. A worker that dies between its claim and its
first word to Airflow leaves a message that nobody starts any more, which the
executor finds and follows by a submission of another id.

Imported by the worker where ``worker.celery_settings`` are its settings, or by
``[celery] extra_celery_config = {"imports": ["hybrid_executor.worker.claim"]}``.
Pods need no claim: a pod's name is never used twice, and nobody delivers it again.
"""

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any

from celery import current_task
from celery.exceptions import Ignore
from celery.signals import worker_init

from hybrid_executor.backends.celery.app import TASK_NAME
from hybrid_executor.ledger.live.claims import Claims
from hybrid_executor.model.errors import LiveUnavailable
from hybrid_executor.settings import load_live, load_worker

log = logging.getLogger(__name__)

#: How long after it would be delivered again a message may come for the last time.
SPARE_S = 86_400


def claimed(run: Callable[[str], None], claims: Claims) -> Callable[[str], None]:
    """``run``, once for each message."""

    @wraps(run)
    def run_once(workload: str) -> None:
        name = str(current_task.request.id)
        if not _claim(claims, name):
            log.warning("[%s] was started before: the message came a second time and is dropped", name)
            raise Ignore
        try:
            run(workload)
        finally:
            _release(claims, name)

    return run_once


def _claim(claims: Claims, name: str) -> bool:
    try:
        return claims.claim(name)
    except LiveUnavailable as error:
        log.warning("[%s] starts without a claim, the live ledger is away: %s", name, error)
        return True


def _release(claims: Claims, name: str) -> None:
    try:
        claims.over(name)
    except LiveUnavailable as error:
        # It expires by itself, later.
        log.info("[%s] its claim stays, the live ledger is away: %s", name, error)


@worker_init.connect  # type: ignore[untyped-decorator]
def install(sender: Any, **_: Any) -> None:
    """Let the worker's task run through the claim; nothing changes where there is no live half."""
    if (config := load_live()) is None:
        log.info("messages are not claimed: the live ledger is off")
        return
    again_s = load_worker().visibility_timeout_s
    task = sender.app.tasks[TASK_NAME]
    # Celery takes the task's own attribute, where it has no __call__ of its own.
    task.run = claimed(task.run, Claims(config, life_s=again_s + SPARE_S))
