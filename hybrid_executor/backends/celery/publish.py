"""Publishes workloads as the messages that a stock ``apply_async`` makes, and revokes them.

Three things differ from stock, all only what people see: ``shadow`` names the
dag and task, ``argsrepr`` and ``kwargsrepr`` the task instance, where stock
shows the workload's JSON with its token. Everything else, from protocol to queue declaration, is
made by Celery's own functions.

Used by one thread, which may block here, but never longer than the operation
timeout for each chunk. On Redis a chunk is one pipeline, and from the second
message of a queue on its messages are made by ``wire``; on other brokers Celery
makes and publishes message by message.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from celery.app.task import extract_exec_options
from celery.exceptions import CeleryError, QueueNotFound
from kombu.exceptions import EncodeError

from hybrid_executor.backends.celery.app import TASK_NAME
from hybrid_executor.backends.celery.broker import broker_errors, open_broker, speaks_redis
from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.backends.celery.redaction import error_text
from hybrid_executor.backends.celery.shown import argsrepr, kwargsrepr, shadow
from hybrid_executor.backends.celery.wire import Model, Own, is_watched, model_of
from hybrid_executor.model.attempt import Submission, SubmissionId
from hybrid_executor.model.errors import BrokerUnavailable
from hybrid_executor.model.observation import Diagnosis, Rejected
from hybrid_executor.model.reason import Reason
from hybrid_executor.naming import celery_task_id

#: What Celery says of a message that it won't make.
REFUSALS = (QueueNotFound, CeleryError, EncodeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Published:
    """The broker has taken the message."""

    submission: SubmissionId


@dataclass(frozen=True, slots=True)
class Unpublished:
    """The broker did not answer. ``in_doubt``: it may have taken the message all the same."""

    submission: SubmissionId
    message: str
    in_doubt: bool


PublishAnswer = Published | Unpublished | Rejected


class Publisher:
    """Holds one connection, opened when it is first needed and again after each failure."""

    def __init__(self, app: Any, config: CeleryConfig) -> None:
        self._app = app
        self._config = config
        self._connection = open_broker(app, config.operation_timeout_s)
        #: On Redis, where what is in doubt can also be looked up.
        self.can_look = self._pipelined = speaks_redis(self._connection)
        self._producer: Any = None
        #: By queue, of this connection; None where Celery has to make each message.
        self._models: dict[str, Model | None] = {}

    def publish(self, batch: Sequence[Submission]) -> Iterator[PublishAnswer]:
        """Publish in order, an answer for each; after a failure the rest is not tried."""
        size = self._config.publish_chunk if self._pipelined else 1
        away: str | None = None
        for start in range(0, len(batch), size):
            chunk = batch[start : start + size]
            if away is not None:
                yield from (Unpublished(one.id, away, in_doubt=False) for one in chunk)
                continue
            answers, away = self._publish_chunk(chunk)
            yield from answers

    def revoke(self, task_ids: Sequence[str]) -> None:
        """Tell all workers to discard these; a running one is left alone, as stock does.

        Raises ``BrokerUnavailable``.
        """
        try:
            with broker_errors(self._connection):
                self._connect()
                self._app.control.revoke(list(task_ids), terminate=False, connection=self._connection)
        except BrokerUnavailable:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        self._producer = None
        self._models.clear()
        self._connection.release()

    def _publish_chunk(self, chunk: Sequence[Submission]) -> tuple[list[PublishAnswer], str | None]:
        answers: list[PublishAnswer] = []
        connected = False
        try:
            with broker_errors(self._connection):
                producer = self._connect()
                connected = True
                if self._publish_modelled(producer, chunk):
                    return [Published(submission.id) for submission in chunk], None
                with producer.batch(len(chunk) + 1) if self._can_pipeline(producer) else nullcontext():
                    answers += [self._publish_one(producer, submission) for submission in chunk]
        except BrokerUnavailable as error:
            self.close()
            refused = [answer for answer in answers if isinstance(answer, Rejected)]
            answered = {answer.submission for answer in refused}
            lost = [Unpublished(s.id, str(error), connected) for s in chunk if s.id not in answered]
            return [*refused, *lost], str(error)
        return answers, None

    def _can_pipeline(self, producer: Any) -> bool:
        return self._pipelined and bool(getattr(producer, "supports_batch_publish", False))

    def _connect(self) -> Any:
        channel = self._connection.default_channel
        if self._producer is not None and self._pipelined:
            # What is sent into a connection that died unnoticed is in doubt, which a ping spares it.
            channel.client.ping()
        if self._producer is None:
            self._producer = self._app.amqp.Producer(channel, auto_declare=False)
        return self._producer

    def _publish_modelled(self, producer: Any, chunk: Sequence[Submission]) -> bool:
        """Publish messages made by ``wire`` in one pipeline; False, and nothing done, where that can't be."""
        if not self._can_pipeline(producer) or is_watched(self._app):
            return False
        models: dict[str, Model] = {}
        for queue in {one.attempt.queue for one in chunk}:
            if (model := self._model(producer, queue)) is None:
                return False
            models[queue] = model
        with producer.channel.client.pipeline(transaction=False) as pipeline:
            for submission in chunk:
                model = models[submission.attempt.queue]
                for name, *arguments in model.commands(_own(submission), self._app.clock.forward):
                    getattr(pipeline, name)(*arguments)
            pipeline.execute()
        return True

    def _model(self, producer: Any, queue: str) -> Model | None:
        if queue not in self._models:

            def send(own: Own) -> None:
                self._send(producer, queue, own)

            try:
                self._models[queue] = model_of(producer.channel, send)
            except REFUSALS:
                # Celery's own word about each submission is what counts.
                return None
        return self._models[queue]

    def _publish_one(self, producer: Any, submission: Submission) -> PublishAnswer:
        try:
            self._send(producer, submission.attempt.queue, _own(submission))
        except REFUSALS as error:
            return Rejected(submission.id, Diagnosis(reason=Reason.REFUSED, message=error_text(error)))
        return Published(submission.id)

    def _send(self, producer: Any, queue: str, own: Own) -> None:
        """Celery's own steps of ``apply_async``, without its look at the result backend.

        That look subscribes to a channel for each task and never lets go of it.
        """
        amqp = self._app.amqp
        options = {**extract_exec_options(self._app.tasks[TASK_NAME]), "queue": queue}
        expires, hard, soft = (options.pop(k) for k in ("expires", "time_limit", "soft_time_limit"))
        if isinstance(expires, int | float):
            options["expiration"] = max(expires, 0)
        arguments = (own.payload,)
        options = amqp.router.route(options, TASK_NAME, arguments, {})
        message = amqp.create_task_message(
            own.task_id,
            TASK_NAME,
            arguments,
            {},
            expires=expires,
            time_limit=hard,
            soft_time_limit=soft,
            reply_to=self._app.thread_oid,
            create_sent_event=self._app.conf.task_send_sent_event,
            shadow=own.shadow,
            argsrepr=own.argsrepr,
            kwargsrepr=own.kwargsrepr,
        )
        # A pipeline is sent once: trying again by itself could send it twice.
        retry = False if self._can_pipeline(producer) else None
        if message.sent_event:
            # Events may overtake each other, and Flower takes the name from the one that comes last.
            message.sent_event["name"] = own.shadow
        amqp.send_task_message(producer, TASK_NAME, message, retry=retry, **options)


def _own(submission: Submission) -> Own:
    attempt = submission.attempt
    return Own(
        task_id=celery_task_id(submission.id),
        payload=submission.payload,
        shadow=shadow(attempt),
        argsrepr=argsrepr(attempt),
        kwargsrepr=kwargsrepr(attempt),
    )
