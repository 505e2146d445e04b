"""Celery messages by the hundred: one is made by Celery itself, the others differ from it where tasks do.

Making a message costs Celery and kombu ten times what sending it costs, and
from one task to the next of a queue only its id, its arguments and what people
see of it differ. ``model_of`` has Celery make one with marks in these places,
and the event that it tells of it, where events are on; ``Model.commands`` fills
them. Where anything else could depend on the task (signals that somebody hears,
routes, expiry, compression, another serializer), there is no model, and Celery
makes each message. Sends nothing. Called by ``publish``.
"""

import base64
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from uuid import uuid4

from celery import signals
from kombu.utils.json import dumps

#: What a hearer of these may change, or wants to know of each message.
_SIGNALS = (signals.before_task_publish, signals.after_task_publish, signals.task_sent)
#: The marks, each a whole string of the JSON: what is a task's own,
_ID, _PAYLOAD, _SHADOW, _ARGSREPR, _KWARGSREPR = (
    f"{name}-{uuid4()}" for name in ("id", "payload", "shadow", "args", "kwargs")
)
#: and what is new with every message and event.
_TAG, _BODY, _CLOCK, _TIME = (f"{name}-{uuid4()}" for name in ("tag", "body", "clock", "time"))
_MARKS = re.compile(
    "|".join(
        json.dumps(mark)
        for mark in (_ID, _PAYLOAD, _SHADOW, _ARGSREPR, _KWARGSREPR, _TAG, _BODY, _CLOCK, _TIME)
    )
)
#: Which stand where: the id as id, root_id and correlation_id; in an event as uuid and root_id.
_IN_MESSAGE = (_ID, _ID, _ID, _SHADOW, _ARGSREPR, _KWARGSREPR, _TAG, _BODY)
_IN_BODY = (_PAYLOAD,)
_IN_EVENT = (_TAG, _BODY)
_IN_EVENTS_BODY = (_ID, _ID, _SHADOW, _ARGSREPR, _KWARGSREPR, _CLOCK, _TIME)


class Own(NamedTuple):
    """What is a message's own; the rest it shares with all of its queue."""

    task_id: str
    payload: str
    shadow: str
    argsrepr: str
    kwargsrepr: str


class Command(NamedTuple):
    """One of Redis's, by the name of redis-py's method."""

    name: str
    key: str
    text: str


class _Text(NamedTuple):
    """JSON that is cut at its marks."""

    parts: tuple[str, ...]
    marks: tuple[str, ...]

    def filled(self, values: Mapping[str, object]) -> str:
        texts = [self.parts[0]]
        for mark, part in zip(self.marks, self.parts[1:], strict=True):
            texts += (json.dumps(values[mark]), part)
        return "".join(texts)


class _Envelope(NamedTuple):
    """A message of kombu's: JSON with JSON in base64 in it."""

    outer: _Text
    inner: _Text

    def filled(self, values: Mapping[str, object]) -> str:
        body = base64.b64encode(self.inner.filled(values).encode()).decode("ascii")
        return self.outer.filled({**values, _TAG: str(uuid4()), _BODY: body})


@dataclass(frozen=True, slots=True)
class Model:
    """The messages of one queue, and the events that tell of them."""

    #: Where the message is pushed, as kombu names it.
    _key: str
    _message: _Envelope
    #: Where the event is published; empty where events are off.
    _topics: tuple[str, ...] = ()
    _event: _Envelope | None = None

    def commands(self, own: Own, tick: Callable[[], int]) -> Iterator[Command]:
        """As Celery would have sent it; ``tick`` is its logical clock, of which each event takes a step."""
        task = {
            _ID: own.task_id,
            _SHADOW: own.shadow,
            _ARGSREPR: own.argsrepr,
            _KWARGSREPR: own.kwargsrepr,
        }
        yield Command("lpush", self._key, self._message.filled({**task, _PAYLOAD: own.payload}))
        if self._event:
            event = self._event.filled({**task, _CLOCK: tick(), _TIME: time.time()})
            for topic in self._topics:
                yield Command("publish", topic, event)


class _Caught(NamedTuple):
    """What kombu's channel was to deliver."""

    messages: list[tuple[str, dict[str, Any]]]
    #: Exchange, message, routing key.
    events: list[tuple[str, dict[str, Any], str]]


def is_watched(app: Any) -> bool:
    """Whether somebody is to hear of each message, or may change it; asked before each batch."""
    return bool(app.conf.task_routes or any(one.receivers for one in _SIGNALS))


def model_of(channel: Any, send: Callable[[Own], None]) -> Model | None:
    """The model of what ``send`` sends over a Redis channel of kombu's; the server gets nothing of it."""
    caught = _catch(channel, lambda: send(Own(_ID, _PAYLOAD, _SHADOW, _ARGSREPR, _KWARGSREPR)))
    if len(caught.messages) != 1 or len(caught.events) > 1:
        return None
    queue, message = caught.messages[0]
    if _depends_on_more(channel, queue, message):
        return None
    envelope = _envelope(message, _IN_MESSAGE, _IN_BODY, {})
    key = _key(channel, queue, message)
    if not caught.events:
        return Model(key, envelope) if envelope else None
    exchange, event, routing_key = caught.events[0]
    told = _envelope(event, _IN_EVENT, _IN_EVENTS_BODY, {"clock": _CLOCK, "timestamp": _TIME})
    topics = tuple(channel._get_publish_topics(exchange, routing_key))  # noqa: SLF001
    return Model(key, envelope, topics, told) if envelope and told else None


def _catch(channel: Any, send: Callable[[], None]) -> _Caught:
    """kombu gives each message for a queue to one method, and each for whoever listens to another."""
    caught = _Caught([], [])
    channel._put = lambda queue, message, **_: caught.messages.append((queue, message))  # noqa: SLF001
    channel._put_fanout = lambda exchange, message, routing_key, **_: caught.events.append(  # noqa: SLF001
        (exchange, message, routing_key)
    )
    try:
        send()
    finally:
        del channel._put, channel._put_fanout  # noqa: SLF001
    return caught


def _depends_on_more(channel: Any, queue: str, message: dict[str, Any]) -> bool:
    headers = message["headers"]
    return bool(
        queue in channel._expires  # noqa: SLF001
        or headers.get("expires")
        or headers.get("eta")
        or headers.get("compression")
        or message["properties"].get("expiration")
    )


def _key(channel: Any, queue: str, message: dict[str, Any]) -> str:
    priority = channel._get_message_priority(message, reverse=False)  # noqa: SLF001
    return str(channel._q_for_pri(queue, priority))  # noqa: SLF001


def _envelope(
    message: dict[str, Any], outer: tuple[str, ...], inner: tuple[str, ...], own: dict[str, str]
) -> _Envelope | None:
    """None where the message isn't JSON in base64, or a mark is not where it is looked for."""
    properties = message["properties"]
    if properties.get("body_encoding") != "base64" or message["content-type"] != "application/json":
        return None
    body = base64.b64decode(message["body"]).decode()
    if own:
        body = dumps({**json.loads(body), **own})  # type: ignore[no-untyped-call]
    marked = {**message, "body": _BODY, "properties": {**properties, "delivery_tag": _TAG}}
    texts = _cut(dumps(marked), outer), _cut(body, inner)  # type: ignore[no-untyped-call]
    return _Envelope(*texts) if all(texts) else None  # type: ignore[arg-type]


def _cut(text: str, expected: tuple[str, ...]) -> _Text | None:
    marks = tuple(json.loads(mark) for mark in _MARKS.findall(text))
    return _Text(tuple(_MARKS.split(text)), marks) if sorted(marks) == sorted(expected) else None
