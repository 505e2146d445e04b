"""Hears of results as workers store them, where the result store is Redis.

With each result Celery publishes the same bytes to a channel named like the
key. This subscribes to the channels of what is followed, by name and many in
one command: a pattern would bring what other schedulers follow, and other
Airflows on the same server too, for channels know no database numbers.

A push may be lost, and that is normal: nothing here is the only way to know.
Each confirmation of a subscription calls for one read of its result, which may
have been stored before; so does each that is made again after a connection was
lost. What is lost in silence is found by the bulk read, with which goes a
``probe``: a connection that has not answered by the next one is given up.

Used by the thread that reads results. Blocks for no longer than one read.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from redis.exceptions import NoPermissionError, RedisError

from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.backends.celery.outage import Outage
from hybrid_executor.backends.celery.redaction import error_text

log = logging.getLogger(__name__)

#: How long the server's word is believed that this user may not subscribe.
REFUSAL_LIFE_S = 300.0


class Channels(Protocol):
    """What is asked of the result store."""

    def pubsub(self) -> Any | None:
        """A new subscriber (redis-py's ``PubSub``), not connected yet; None where nothing is pushed."""

    def channel(self, task_id: str) -> bytes:
        """Where the results of a task are published."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What has come in."""

    #: The newest raw result of each task that had one.
    raws: Mapping[str, Any] = field(default_factory=dict)
    #: Tasks whose subscription is confirmed now: their results are to be read once.
    joined: Sequence[str] = ()


class Push:
    """Holds one connection while something is followed, and none otherwise."""

    def __init__(self, channels: Channels, config: CeleryConfig) -> None:
        self._channels = channels
        self._config = config
        self._outage = Outage("the push of Celery's results", config.outage_pause_max_s, level=logging.INFO)
        self._followed: set[str] = set()
        self._joining: set[str] = set()
        self._leaving: set[str] = set()
        #: Of the tasks whose channels are subscribed to.
        self._task_of: dict[bytes, str] = {}
        self._pubsub: Any = None
        #: Asked for a sign of life since it last said anything.
        self._probed = False
        #: More may have come in than was taken; the socket, from which it may have been read, does not tell.
        self._has_more = False
        self._closed_until_s = 0.0
        self._refused = False

    @property
    def is_open(self) -> bool:
        """Whether results are pushed, but for those whose subscription is still to be confirmed."""
        return self._pubsub is not None

    def file(self) -> Any | None:
        """What becomes readable when something comes in; None while nothing can."""
        # As kombu does it: redis-py has no public name for a connection's socket.
        return self._pubsub and self._pubsub.connection and self._pubsub.connection._sock  # noqa: SLF001

    def follow(self, task_id: str) -> None:
        """Subscribe with the next ``hear``."""
        if task_id not in self._followed:
            self._followed.add(task_id)
            self._joining.add(task_id)
            self._leaving.discard(task_id)

    def leave(self, task_id: str) -> None:
        """Unsubscribe with the next ``hear``."""
        if task_id in self._followed:
            self._followed.remove(task_id)
            if task_id not in self._joining:
                self._leaving.add(task_id)
            self._joining.discard(task_id)

    def due_s(self) -> float | None:
        """When ``hear`` has something to do, whatever comes in; None if nothing."""
        if self.is_open:
            return 0.0 if self._leaving or self._has_more or not self._followed else None
        return self._closed_until_s if self._followed else None

    def hear(self, now_s: float) -> Heard:
        """Subscribe and unsubscribe as told since the last call, and take what has come in. Never raises.

        Takes ``push_chunk`` at most: where more comes in than can be taken, something else gets its turn.
        """
        if now_s < self._closed_until_s:
            return Heard()
        try:
            self._tell()
            heard = self._take() if self.is_open else Heard()
        except NoPermissionError as error:
            self._refuse(error, now_s)
        except (RedisError, OSError) as error:
            self.close()
            self._closed_until_s = now_s + self._outage.failed(error_text(error))
        else:
            if heard.joined:
                self._accept()
            return heard
        return Heard()

    def probe(self, now_s: float) -> None:
        """Ask for a sign of life; give the connection up that gave none since it was asked last."""
        if not self.is_open:
            return
        if self._probed:
            self.close()
            self._closed_until_s = now_s + self._outage.failed("the connection has fallen silent")
            return
        try:
            self._pubsub.ping()
        except (RedisError, OSError) as error:
            self.close()
            self._closed_until_s = now_s + self._outage.failed(error_text(error))
        self._probed = True

    def close(self) -> None:
        """Close the connection; the next ``hear`` subscribes again to all that is followed."""
        if self._pubsub is not None:
            self._pubsub.close()
        self._pubsub, self._probed, self._has_more = None, False, False
        self._joining, self._leaving = set(self._followed), set()
        self._task_of.clear()

    def _tell(self) -> None:
        if not self._followed:
            self.close()
        if self._joining:
            if self._pubsub is None and (pubsub := self._channels.pubsub()) is None:
                self._closed_until_s = float("inf")  # this kind of store pushes nothing
                return
            self._pubsub = self._pubsub or pubsub
            joining = {self._channels.channel(task_id): task_id for task_id in self._joining}
            self._pubsub.subscribe(*joining)
            self._task_of.update(joining)
            self._joining.clear()
        if self._leaving:
            leaving = [self._channels.channel(task_id) for task_id in self._leaving]
            self._pubsub.unsubscribe(*leaving)
            for channel in leaving:
                del self._task_of[channel]
            self._leaving.clear()

    def _take(self) -> Heard:
        raws: dict[str, Any] = {}
        joined: dict[str, None] = {}
        for _ in range(self._config.push_chunk):
            self._has_more = self._pubsub.connection.can_read(timeout=0)
            if not self._has_more:
                break
            # The rest of what has begun to come is waited for.
            message = self._pubsub.get_message(timeout=self._config.read_timeout_s)
            self._probed = False
            task_id = self._task_of.get(message["channel"]) if message else None
            if task_id is None:
                continue
            if message["type"] == "message":
                raws[task_id] = message["data"]
            elif message["type"] == "subscribe":
                joined[task_id] = None
        return Heard(raws, tuple(joined))

    def _refuse(self, error: NoPermissionError, now_s: float) -> None:
        self.close()
        self._closed_until_s = now_s + REFUSAL_LIFE_S
        if not self._refused:
            log.warning(
                "the result store pushes nothing to this user (%s), so results are read every %g s. It lacks"
                " one of the commands SUBSCRIBE, UNSUBSCRIBE and PING, or the channels of results: %s",
                error_text(error),
                self._config.poll_interval_s,
                f"ACL SETUSER … +subscribe +unsubscribe +ping &{self._pattern()}",
            )
        self._refused = True

    def _accept(self) -> None:
        self._outage.over()
        if self._refused:
            log.info("the result store pushes results to this user now")
        self._refused = False

    def _pattern(self) -> str:
        return self._channels.channel("*").decode()
