"""The message on the wire: the one that a stock ``apply_async`` makes, but for what people see of it."""

import base64
import json
import time
from itertools import islice
from typing import Any

import pytest
import redis
from celery import signals
from hypothesis import given
from hypothesis import strategies as st
from kombu import Exchange, Queue

from hybrid_executor.backends.celery.app import TASK_NAME
from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.backends.celery.publish import Published, Publisher
from hybrid_executor.backends.celery.redaction import redacted
from hybrid_executor.backends.celery.shown import REPR_MAX, argsrepr, kwargsrepr, shadow
from hybrid_executor.model.attempt import Submission, TaskAddress, WorkloadKind
from hybrid_executor.model.observation import Rejected
from hybrid_executor.model.reason import Reason
from hybrid_executor.naming import celery_task_id
from tests.fixtures.celery import TOKEN, celery_app, celery_submission

#: What is new in every message, whoever makes it.
UNIQUE = {("properties", "delivery_tag"), ("properties", "reply_to"), ("headers", "origin")}
#: What JSON, base64 and whoever cuts texts could trip over.
HOSTILE = {"runs": "", "name": 'ü "quoted" \\ {0} %s </s>'}
#: What differs from stock on purpose: what Flower and worker events show.
SHOWN = {("headers", "shadow"), ("headers", "argsrepr"), ("headers", "kwargsrepr")}


def on_the_wire(url: str, queue: str) -> list[dict[str, Any]]:
    """The messages of a queue in the order in which workers take them."""
    with redis.Redis.from_url(url) as client:
        return [json.loads(entry) for entry in reversed(client.lrange(queue, 0, -1))]


def flat(message: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """Every field by its path."""
    fields = {("", name): value for name, value in message.items() if name not in {"headers", "properties"}}
    for part in ("headers", "properties"):
        fields |= {(part, name): value for name, value in message[part].items()}
    return fields


def publish_stock(app: Any, submission: Submission) -> None:
    app.tasks[TASK_NAME].apply_async(
        args=(submission.payload,), queue=submission.attempt.queue, task_id=celery_task_id(submission.id)
    )


def publish_ours(app: Any, *batch: Submission) -> list[Any]:
    publisher = Publisher(app, CeleryConfig(operation_timeout_s=5.0))
    try:
        return list(publisher.publish(batch))
    finally:
        publisher.close()


SETTINGS = [
    pytest.param({}, id="as the provider sets it"),
    pytest.param({"task_send_sent_event": True}, id="sent events"),
    pytest.param({"task_default_priority": 6}, id="priority"),
    pytest.param({"task_time_limit": 30, "task_soft_time_limit": 20}, id="time limits"),
    pytest.param({"task_compression": "gzip"}, id="compression"),
    pytest.param({"broker_transport_options": {"global_keyprefix": "team-"}}, id="key prefix"),
    pytest.param(
        {"broker_transport_options": {"queue_order_strategy": "priority", "sep": ":"}}, id="separator"
    ),
    pytest.param({"task_annotations": {TASK_NAME: {"priority": 3, "expires": 600}}}, id="annotations"),
    pytest.param({"task_routes": {TASK_NAME: {"priority": 4}}}, id="routes"),
    pytest.param({"task_serializer": "pickle", "accept_content": ["pickle"]}, id="serializer"),
    pytest.param({"task_queues": [Queue("light", expires=900.0)]}, id="queue that expires"),
    pytest.param({"task_queues": [Queue("light", Exchange("t", "topic"), "#")]}, id="topic exchange"),
]


@pytest.mark.parametrize("batches", [[1], [3], [1, 2]], ids=["alone", "in a batch", "in later batches"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_message_equals_a_stock_one_in_every_field_that_workers_read(
    valkey_url: str, settings: dict[str, Any], batches: list[int]
) -> None:
    app = celery_app(valkey_url, valkey_url, **settings)
    submissions = [celery_submission(HOSTILE, queue="light") for _ in range(sum(batches))]
    for submission in submissions:
        publish_stock(app, submission)
    publisher, left = Publisher(app, CeleryConfig(operation_timeout_s=5.0)), iter(submissions)
    for size in batches:
        batch = list(islice(left, size))
        assert list(publisher.publish(batch)) == [Published(submission.id) for submission in batch]
    publisher.close()
    with redis.Redis.from_url(valkey_url) as client:
        (key,) = [k.decode() for k in client.keys("*light*") if b"kombu" not in k]
    messages = on_the_wire(valkey_url, key)
    pairs = zip(messages[: len(submissions)], messages[len(submissions) :], strict=True)
    for stock, ours in [(flat(theirs), flat(own)) for theirs, own in pairs]:
        different = {path for path in stock.keys() | ours.keys() if stock.get(path) != ours.get(path)}
        expires = (
            {("headers", "expires"), ("properties", "expiration")}
            if "task_annotations" in settings
            else set()
        )
        assert different - UNIQUE - expires == SHOWN
        assert stock.keys() == ours.keys()
    tags = {message["properties"]["delivery_tag"] for message in messages}
    assert len(tags) == len(messages), "a tag names one delivery"


@pytest.mark.parametrize("signal", ["before_task_publish", "after_task_publish"])
def test_whoever_hears_of_published_messages_hears_of_each(valkey_url: str, signal: str) -> None:
    app, heard = celery_app(valkey_url, valkey_url), []

    def hear(headers: dict[str, Any], **_: Any) -> None:
        headers["trace"] = "of the site"
        heard.append(headers["id"])

    batch = [celery_submission() for _ in range(3)]
    publisher = Publisher(app, CeleryConfig(operation_timeout_s=5.0))
    list(publisher.publish(batch))
    # Somebody may come to hear of them after the first.
    getattr(signals, signal).connect(hear)
    try:
        list(publisher.publish(later := [celery_submission() for _ in range(3)]))
    finally:
        getattr(signals, signal).disconnect(hear)
        publisher.close()
    assert heard == [submission.attempt.id for submission in later]
    traced = [message["headers"].get("trace") for message in on_the_wire(valkey_url, "default")]
    if signal == "before_task_publish":
        assert traced == [None] * 3 + ["of the site"] * 3


@pytest.mark.parametrize("events", [False, True], ids=["without events", "with events"])
def test_a_message_costs_celery_nothing_once_it_has_made_one_of_the_queue(
    valkey_url: str, monkeypatch: pytest.MonkeyPatch, events: bool
) -> None:
    app, made = celery_app(valkey_url, valkey_url, task_send_sent_event=events), []
    make = app.amqp.create_task_message
    monkeypatch.setattr(app.amqp, "create_task_message", lambda *a, **k: made.append(a[0]) or make(*a, **k))
    batch = [celery_submission(queue=queue) for queue in ("light", "heavy") for _ in range(50)]
    publish_ours(app, *batch)
    assert len(made) == 2
    assert not {submission.attempt.id for submission in batch} & set(made), "what it makes is not sent"
    for queue in ("light", "heavy"):
        assert len(on_the_wire(valkey_url, queue)) == 50


def test_people_see_the_task_instance_and_never_the_token(valkey_url: str) -> None:
    app = celery_app(valkey_url, valkey_url)
    address = TaskAddress(dag_id="etl", task_id="load", run_id="manual__1", map_index=3, try_number=2)
    publish_ours(app, celery_submission(address=address))
    (message,) = on_the_wire(valkey_url, "default")
    assert message["headers"]["shadow"] == "etl.load"
    assert message["headers"]["argsrepr"] == "('etl', 'manual__1', 'load', 3, 2)"
    shown = {"dag": "etl", "run": "manual__1", "task": "load", "map_index": 3, "try": 2}
    assert message["headers"]["kwargsrepr"] == repr(shown)
    assert TOKEN not in json.dumps(message)  # the body is base64


def test_a_sent_event_equals_a_stock_one_but_for_what_people_see(valkey_url: str) -> None:
    """Those of messages that Celery made (the first of a queue's alone) and of those that it did not."""
    app = celery_app(valkey_url, valkey_url, task_send_sent_event=True)
    batch = [celery_submission(HOSTILE) for _ in range(3)]
    with redis.Redis.from_url(valkey_url) as client, client.pubsub() as channel:
        channel.psubscribe("*celeryev*")
        channel.get_message(timeout=5)
        publish_stock(app, batch[0])
        publish_ours(app, *batch)
        stock, *ours = _messages(channel, 4)
    told = _event_body(stock)
    assert [_event_body(event)["uuid"] for event in ours] == [submission.attempt.id for submission in batch]
    for event, submission in zip(ours, batch, strict=True):
        body = _event_body(event)
        assert {**event, "body": ""} == {**stock, "body": "", "properties": event["properties"]}
        assert event["properties"].keys() == stock["properties"].keys()
        assert body.keys() == told.keys()
        differing = {name for name in told if told[name] != body[name]} - {"uuid", "root_id"}
        assert differing == {"name", "args", "kwargs", "timestamp", "clock"}
        assert (body["name"], body["args"]) == (shadow(submission.attempt), argsrepr(submission.attempt))
        assert body["kwargs"] == kwargsrepr(submission.attempt)
        assert body["root_id"] == body["uuid"]
        assert time.time() - 60 < body["timestamp"] <= time.time()
        assert TOKEN not in json.dumps(body)
    clocks = [_event_body(event)["clock"] for event in (stock, *ours)]
    assert clocks == sorted(set(clocks)), "each is a step of the logical clock"


def _messages(channel: redis.client.PubSub, count: int) -> list[Any]:
    deadline, events = time.monotonic() + 10, []
    while len(events) < count:
        assert time.monotonic() < deadline, events
        if event := channel.get_message(ignore_subscribe_messages=True, timeout=0.2):
            events.append(json.loads(event["data"]))
    return events


def _event_body(event: dict[str, Any]) -> Any:
    return json.loads(base64.b64decode(event["body"]))


@given(
    dag=st.text(max_size=300),
    task=st.text(max_size=300),
    run=st.text(max_size=300),
    map_index=st.integers(-1, 10_000),
    address=st.booleans(),
)
def test_what_people_see_never_holds_the_token(
    dag: str, task: str, run: str, map_index: int, address: bool
) -> None:
    where = TaskAddress(dag_id=dag, task_id=task, run_id=run, map_index=map_index) if address else None
    submission = celery_submission(
        address=where, kind=WorkloadKind.TASK if address else WorkloadKind.CALLBACK
    )
    assert TOKEN in submission.payload
    attempt = submission.attempt
    shown = shadow(attempt) + argsrepr(attempt) + kwargsrepr(attempt) + repr(submission)
    assert TOKEN not in shown
    assert max(len(argsrepr(attempt)), len(kwargsrepr(attempt))) <= REPR_MAX


@given(before=st.text(max_size=80), cut=st.integers(12, len(TOKEN)), quote=st.sampled_from(['"', "'", '\\"']))
def test_an_error_that_quotes_a_workload_loses_its_token(before: str, cut: int, quote: str) -> None:
    text = f"{before} input_value={quote}{{{quote}token{quote}: {quote}{TOKEN[:cut]}"
    assert TOKEN[:cut] not in redacted(text)


def test_callbacks_and_connection_tests_go_through_the_same_task(valkey_url: str) -> None:
    app = celery_app(valkey_url, valkey_url)
    callback = celery_submission(address=None, kind=WorkloadKind.CALLBACK)
    test = celery_submission(address=None, kind=WorkloadKind.CONNECTION_TEST)
    publish_ours(app, callback, test)
    messages = on_the_wire(valkey_url, "default")
    assert [m["headers"]["task"] for m in messages] == [TASK_NAME, TASK_NAME]
    assert [m["headers"]["shadow"] for m in messages] == ["callback", "connection_test"]


def test_a_batch_keeps_its_order_and_costs_one_pipeline(valkey_url: str) -> None:
    app = celery_app(valkey_url, valkey_url)
    batch = [celery_submission() for _ in range(200)]
    with redis.Redis.from_url(valkey_url) as client, client.monitor() as monitor:
        publish_ours(app, *batch)
        client.set("published", 1)
        commands = []
        for command in monitor.listen():
            commands.append(command["command"].split()[0])
            if "published" in command["command"]:
                break
    assert [m["headers"]["id"] for m in on_the_wire(valkey_url, "default")] == [s.attempt.id for s in batch]
    assert commands.count("LPUSH") == 200
    assert len(commands) < 200 + 25, "nothing else is said for each message"


def test_publishing_subscribes_to_no_result_channel(valkey_url: str) -> None:
    """Stock subscribes to one channel per task and keeps it, on a Redis result backend."""
    app = celery_app(valkey_url, valkey_url)
    publish_ours(app, *(celery_submission() for _ in range(3)))
    with redis.Redis.from_url(valkey_url) as client:
        assert not client.pubsub_channels("*celery-task-meta-*")


def test_one_queue_that_celery_refuses_fails_that_submission_alone(valkey_url: str) -> None:
    app = celery_app(valkey_url, valkey_url, task_create_missing_queues=False)
    good, bad = celery_submission(), celery_submission(queue="not-declared")
    answers = publish_ours(app, bad, good)
    assert isinstance(answers[0], Rejected)
    assert answers[0].diagnosis.reason is Reason.REFUSED
    assert "not-declared" in answers[0].diagnosis.message
    assert answers[1] == Published(good.id)
