"""Kills the scheduler at an exact point; on the PYTHONPATH of the test's stack alone.

The test writes ``<point> <n>`` into the file that ``CHAOS_ORDER`` names; the
scheduler removes it and kills itself when it gets to that point for the n-th
time. Without the file nothing happens, so the scheduler that comes after lives.
"""

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

passed: Counter[str] = Counter()


def reach(point: str) -> None:
    """Die here if this is the ordered point."""
    order = Path(os.environ["CHAOS_ORDER"])
    if not order.exists():
        return
    wanted, times = order.read_text().split()
    if wanted == point:
        passed[point] += 1
        if passed[point] >= int(times):
            order.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, point: str, concerns: Callable[..., bool] = lambda *_: True) -> None:
    """Make ``owner.name`` reach ``point`` when it is called with what concerns it."""
    original = getattr(owner, name)

    def hooked(self: Any, *arguments: Any, **named: Any) -> Any:
        if concerns(*arguments):
            reach(point)
        return original(self, *arguments, **named)

    setattr(owner, name, hooked)


def install() -> None:
    from hybrid_executor.backends.celery.backend import CeleryBackend
    from hybrid_executor.backends.celery.publish import Publisher
    from hybrid_executor.backends.kubernetes.backend import KubernetesBackend
    from hybrid_executor.backends.kubernetes.creation import Creation
    from hybrid_executor.backends.kubernetes.delivery import Delivery
    from hybrid_executor.controller import Controller
    from hybrid_executor.executor import HybridExecutor
    from hybrid_executor.ledger.database import DatabaseLedger

    before(Controller, "_submit", "commit-send", bool)
    before(CeleryBackend, "submit", "commit-send-celery")
    before(KubernetesBackend, "submit", "commit-send-kubernetes")
    after_publish(Publisher)
    before(Delivery, "deliver", "pod-secret")
    before(Creation, "_answer", "send-record-kubernetes", lambda _, answer: answer is None)
    before(
        DatabaseLedger,
        "record",
        "send-record",
        lambda _, changes: any(change.external_name for change in changes),
    )
    before(Controller, "_close", "end-event")
    before(HybridExecutor, "restarted", "restart-event")
    before(
        DatabaseLedger,
        "record",
        "event-record",
        lambda _, changes: any(change.ended_at for change in changes),
    )


def after_publish(publisher: Any) -> None:
    original = publisher._publish_chunk

    def hooked(self: Any, chunk: Any) -> Any:
        answer = original(self, chunk)
        reach("send-record-celery")
        return answer

    publisher._publish_chunk = hooked


if "CHAOS_ORDER" in os.environ and sys.orig_argv[-1:] == ["scheduler"]:
    install()
