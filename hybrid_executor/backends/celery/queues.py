"""Looks for messages in the broker: in a queue, or handed to a worker that has not acknowledged it.

Only a Redis broker can be looked into. kombu keeps there a list for each queue
and priority (pushed at the head, taken from the tail), the hash ``unacked`` of
what workers hold, and a set per exchange of the queues bound to it.

A message moves between a list and ``unacked`` in two steps of the worker, so
one look may miss it: ``lookup`` looks several times before it believes.

Used by one thread, which may block here. Changes nothing, except that
``remove`` takes one message out of its queue.
"""

import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis

from hybrid_executor.backends.celery.broker import broker_errors, open_broker, speaks_redis
from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.model.errors import BrokerUnavailable

#: Finds a message's task id without decoding it. The body is base64 and quotes inside
#: of strings are escaped, so that this can only match the property itself.
_TASK_ID = re.compile(rb'"correlation_id":\s*"([^"\\]+)"')
#: How long the list of bound queues is believed. Finding it walks the key space.
BINDINGS_LIFE_S = 60.0


@dataclass(frozen=True, slots=True)
class Queued:
    """The message lies in its queue."""

    queue: str
    #: How many are taken before it.
    ahead: int
    total: int
    key: str
    entry: bytes


@dataclass(frozen=True, slots=True)
class Behind:
    """Not among the messages that were read; the queue is longer than is ever read."""

    queue: str
    read: int
    total: int


@dataclass(frozen=True, slots=True)
class Held:
    """A worker has taken the message and not acknowledged it."""


@dataclass(frozen=True, slots=True)
class Unseen:
    """The broker can't be looked into: it is with the broker or with a worker."""


Place = Queued | Behind | Held | Unseen


class QueueReader:
    """Holds one connection, opened when it is first needed and again after each failure."""

    def __init__(self, app: Any, config: CeleryConfig) -> None:
        self._app = app
        self._config = config
        self._connection = open_broker(app, config.read_timeout_s)
        self._channel: Any = None
        self._client: Any = None
        self._bound: tuple[str, ...] = ()
        self._bound_until = 0.0
        #: Whether this broker can be looked into at all.
        self.can_look = speaks_redis(self._connection)

    def find(self, wanted: Mapping[str, str | None]) -> dict[str, Place]:
        """Where these tasks' messages are; the value is the queue, or None if it is not known.

        One pass over each queue however many are wanted. Raises ``BrokerUnavailable``.
        """
        with self._asking():
            return self._find(wanted)

    def bound(self) -> tuple[str, ...]:
        """Every queue that was ever declared here for tasks. Raises ``BrokerUnavailable``."""
        with self._asking():
            return self._bound_queues()

    def following(self, queues: Collection[str]) -> dict[str, bytes]:
        """The message that a worker takes next, for each queue that has one; one round trip.

        Raises ``BrokerUnavailable``.
        """
        with self._asking():
            steps = self._channel.priority_steps
            keys = [(queue, self._key(queue, step)) for queue in queues for step in steps]
            with self._client.pipeline(transaction=False) as pipe:
                for _, key in keys:
                    pipe.lindex(key, -1)
                entries = pipe.execute()
        # The first step is served first.
        return {
            queue: entry for (queue, _), entry in reversed(list(zip(keys, entries, strict=True))) if entry
        }

    def remove(self, queued: Queued) -> bool:
        """Take a message out of its queue; False if it is no longer there. Raises ``BrokerUnavailable``."""
        with self._asking():
            return bool(self._client.lrem(queued.key, -1, queued.entry))

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        self._channel = self._client = None
        self._connection.release()

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            with broker_errors(self._connection):
                self._connect()
                yield
        except BrokerUnavailable:
            self.close()
            raise

    def _connect(self) -> None:
        if self._client is None:
            self._channel = self._connection.default_channel
            # A client of our own on the channel's pool: kombu's adds the key prefix to some commands only.
            self._client = redis.Redis(connection_pool=self._channel.pool)

    def _find(self, wanted: Mapping[str, str | None]) -> dict[str, Place]:
        found: dict[str, Place] = {}
        behind: dict[str, Behind] = {}
        queues = {queue for queue in wanted.values() if queue}
        if None in wanted.values():
            queues.update(self._bound_queues())
        for queue in sorted(queues):
            rest = wanted.keys() - found.keys()
            if rest and (cut := self._search(queue, rest, found)):
                behind[queue] = cut
        if rest := wanted.keys() - found.keys():
            found.update({task_id: Held() for task_id in self._held() if task_id in rest})
        for task_id, queue_hint in wanted.items():
            if task_id not in found and (cut := _behind(behind, queue_hint)):
                found[task_id] = cut
        return found

    def _search(self, queue: str, wanted: set[str], found: dict[str, Place]) -> Behind | None:
        """Add to ``found`` what lies in the queue; return where reading stopped short, if it did."""
        keys = [self._key(queue, step) for step in self._channel.priority_steps]
        with self._client.pipeline(transaction=False) as pipe:
            for key in keys:
                pipe.llen(key)
            lengths = pipe.execute()
        total, ahead, budget = sum(lengths), 0, self._config.queue_limit
        for key, length in zip(keys, lengths, strict=True):
            for index, entry in self._entries(key, max(length - budget, 0)):
                match = _TASK_ID.search(entry)
                if match and (task_id := match[1].decode()) in wanted:
                    place = max(ahead + length - index - 1, 0)
                    found[task_id] = Queued(queue, place, total, key, entry)
            ahead += length
            budget = max(budget - length, 0)
        return Behind(queue, self._config.queue_limit, total) if total > self._config.queue_limit else None

    def _entries(self, key: str, start: int) -> Iterator[tuple[int, bytes]]:
        """The entries from ``start`` to the tail.

        Towards the tail, because new messages push what is unread further on,
        never past us; what workers take meanwhile is in ``unacked``, read later.
        """
        size = self._config.queue_chunk
        while entries := self._client.lrange(key, start, start + size - 1):
            yield from enumerate(entries, start)
            start += size

    def _held(self) -> Iterator[str]:
        key = f"{self._channel.global_keyprefix}{self._channel.unacked_key}"
        for _, entry in self._client.hscan_iter(key, count=self._config.queue_chunk):
            if match := _TASK_ID.search(entry):
                yield match[1].decode()

    def _key(self, queue: str, step: int) -> str:
        suffix = f"{self._channel.sep}{step}" if step else ""
        return f"{self._channel.global_keyprefix}{queue}{suffix}"

    def _bound_queues(self) -> tuple[str, ...]:
        """Every queue that was ever declared here, those of events and replies left out."""
        if time.monotonic() >= self._bound_until:
            prefix = f"{self._channel.global_keyprefix}{self._channel.keyprefix_queue % ''}"
            pattern = re.sub(r"([\[\]*?\\])", r"\\\1", prefix) + "*"
            members: set[bytes] = set()
            for key in self._client.scan_iter(pattern, count=1000, _type="SET"):
                members |= self._client.smembers(key)
            separator = self._channel.sep.encode()
            names = {member.rpartition(separator)[2].decode() for member in members}
            self._bound = tuple(name for name in sorted(names) if not _is_internal(name))
            self._bound_until = time.monotonic() + BINDINGS_LIFE_S
        return self._bound


def _is_internal(queue: str) -> bool:
    return not queue or queue.startswith("celeryev") or queue.endswith(".pidbox")


def _behind(behind: Mapping[str, Behind], queue: str | None) -> Behind | None:
    return behind.get(queue) if queue else next(iter(behind.values()), None)
