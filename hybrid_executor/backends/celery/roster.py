"""The Celery workers that answer now: what each serves and has at hand; and a word to one of them to drain.

For people: ``airflow hybrid workers`` asks, and waits for the answers. The
executor itself never does. A worker that imports ``worker.draining`` is told by
that module's command; any other has its queues cancelled one by one, which does
the same (ADR 18). Nothing is ended here.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from celery.exceptions import CeleryError
from kombu.exceptions import KombuError

from hybrid_executor.backends.celery.broker import broker_errors, open_broker
from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.backends.celery.redaction import error_text
from hybrid_executor.model.errors import BrokerUnavailable

#: The control command of ``hybrid_executor.worker.draining``.
DRAIN = "hybrid_drain"
#: How long workers may take to answer; they do so from their event loop.
ANSWER_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """What a worker says of itself; None for what it did not say in time, of which nothing is known."""

    queues: tuple[str, ...] | None
    #: Messages that it has and has not finished.
    at_hand: int | None
    #: Tasks that it can run at a time.
    slots: int


class Roster:
    """One asking; ``close`` when done."""

    def __init__(self, app: Any, config: CeleryConfig) -> None:
        self._app = app
        self._connection = open_broker(app, config.read_timeout_s)

    def look(self) -> dict[str, Member]:
        """The workers that answered, by name. Raises ``BrokerUnavailable``."""
        with self._errors():
            stats = self._inspect().stats() or {}
            if not stats:
                return {}
            asked = self._inspect(destination=sorted(stats), limit=len(stats))
            # In this order: a message that is begun meanwhile is in both lists, the other way round in none.
            served, reserved, active = asked.active_queues(), asked.reserved(), asked.active()
        return {
            name: _member(told, *(_list_of(answers, name) for answers in (served, reserved, active)))
            for name, told in stats.items()
        }

    def drain(self, name: str, member: Member) -> bool:
        """Have it take nothing more; whether it said that it will. Raises ``BrokerUnavailable``."""
        if self._tell(DRAIN, name):
            return True
        if member.queues is None:
            return False
        heard = {queue: self._tell("cancel_consumer", name, queue=queue) for queue in member.queues}
        return all(heard.values())

    def close(self) -> None:
        self._connection.release()

    def _tell(self, command: str, name: str, **arguments: Any) -> bool:
        with self._errors():
            answers = self._app.control.broadcast(
                command,
                arguments=arguments,
                destination=[name],
                reply=True,
                timeout=ANSWER_S,
                limit=1,
                connection=self._connection,
            )
        return any("ok" in answer for reply in answers or () for answer in reply.values())

    def _inspect(self, **limits: Any) -> Any:
        return self._app.control.inspect(timeout=ANSWER_S, connection=self._connection, **limits)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            with broker_errors(self._connection):
                yield
        except (BrokerUnavailable, KombuError, CeleryError) as error:
            raise BrokerUnavailable(error_text(error)) from error


def _list_of(answers: Mapping[str, Any] | None, name: str) -> list[Any] | None:
    """What it listed; None where it was late, or says that it could not."""
    answer = (answers or {}).get(name)
    return answer if isinstance(answer, list) else None


def _member(
    stats: Mapping[str, Any], served: list[Any] | None, reserved: list[Any] | None, active: list[Any] | None
) -> Member:
    return Member(
        queues=None if served is None else tuple(sorted(queue["name"] for queue in served)),
        at_hand=None if reserved is None or active is None else len(reserved) + len(active),
        slots=int(stats.get("pool", {}).get("max-concurrency") or 0),
    )
