"""Reads Celery's results in bulk, and says what they mean, be they read or pushed.

One MGET for key-value stores, one SELECT for the database backend over a held
connection, one read per task for any other. A result that has not changed is
not decoded again. ``rpc://`` can't be read by another process than the one
that published, so it is of no use to Airflow's executors, ours included.

Used by one thread, which may block here. Never writes: results expire by
themselves (``result_expires``).
"""

import logging
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import sqlalchemy as sa
from celery import states
from celery.app import backends
from celery.backends.base import BaseKeyValueStoreBackend
from celery.backends.database import DatabaseBackend
from celery.backends.redis import RedisBackend
from celery.exceptions import CeleryError
from kombu.exceptions import KombuError
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from hybrid_executor.backends.celery.config import CeleryConfig
from hybrid_executor.backends.celery.redaction import error_text, redacted
from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.errors import BrokerUnavailable
from hybrid_executor.model.observation import Diagnosis, Ended, How, Started
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.start import from_line

log = logging.getLogger(__name__)

#: Said of a process that a SIGKILL ended, which the kernel does to whoever uses too much memory.
KILLED = (
    "; most likely the kernel's OOM killer: give the worker more memory or fewer slots (worker_concurrency),"
    " or route the task to a pod with a limit of its own"
)
#: What Celery calls it when the process that ran a task was killed, or the worker vanished.
LOST_WORKER = frozenset({"WorkerLostError", "Terminated", "WorkerShutdown", "WorkerTerminate"})


class ResultsUnavailable(BrokerUnavailable):
    """The result store does not answer."""


@dataclass(frozen=True, slots=True)
class Result:
    """What is stored for one task."""

    status: str
    value: Any


# --- what a result means: pure ---------------------------------------------------


def observation(submission: SubmissionId, result: Result) -> Started | Ended | None:
    """What a result says about a submission; None for states that say nothing.

    ``REVOKED`` says nothing: a worker stores it as soon as it hears of a
    revocation, for tasks that go on running and for messages that it never had.
    """
    match result.status:
        case states.STARTED:
            return Started(submission, where=_worker(result.value))
        case states.SUCCESS:
            return Ended(submission, How.SUCCEEDED)
        case states.FAILURE:
            return Ended(submission, How.FAILED, diagnosis(result.value), asked_as=_asked_as(result.value))
        case _:
            return None


def _worker(value: Any) -> str:
    return str(value.get("hostname") or "a worker") if isinstance(value, Mapping) else "a worker"


def diagnosis(error: Any) -> Diagnosis:
    """Type and text of a stored exception: a dictionary (JSON) or the exception itself (pickle)."""
    if _asked_as(error):
        return Diagnosis(reason=Reason.NOT_STARTED, message=redacted(str(_words(error)[0])))
    name, text = _name_and_text(error)
    reason = Reason.WORKER_LOST if name.rpartition(".")[2] in LOST_WORKER else Reason.ERROR
    if reason is Reason.WORKER_LOST and ("signal 9" in text or "SIGKILL" in text):
        text = text.rstrip(". ") + KILLED
    return Diagnosis(reason=reason, message=redacted(f"{name}: {text}" if text else name))


def _asked_as(error: Any) -> str | None:
    """By what host name a process asked in vain for leave to start; None of any other error."""
    # Behind what is for people to read: ``worker.task.NotStarted``.
    match _words(error):
        case [_, str(line)]:
            return from_line(line)
        case _:
            return None


def _words(error: Any) -> Sequence[Any]:
    """What an exception was made from."""
    words = error.get("exc_message") if isinstance(error, Mapping) else getattr(error, "args", None)
    return words if isinstance(words, list | tuple) else ()


def _name_and_text(error: Any) -> tuple[str, str]:
    if isinstance(error, Mapping):
        words = error.get("exc_message") or ""
        text = " ".join(str(w) for w in words) if isinstance(words, list | tuple) else str(words)
        return str(error.get("exc_type", "Exception")), text
    if isinstance(error, BaseException):
        return type(error).__name__, str(error)
    return "Exception", str(error or "")


# --- how results are read ----------------------------------------------------------


class _Store(Protocol):
    """One kind of result backend. A raw value is equal to an earlier one if nothing has changed."""

    def fetch(self, task_ids: Sequence[str]) -> dict[str, Any]:
        """Raw values of the tasks that have one."""

    def decode(self, raw: Any) -> Result: ...

    def close(self) -> None: ...


class _KeyValueStore:
    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def fetch(self, task_ids: Sequence[str]) -> dict[str, Any]:
        keys = [self._backend.get_key_for_task(task_id) for task_id in task_ids]
        return {t: raw for t, raw in zip(task_ids, self._backend.mget(keys), strict=True) if raw}

    def decode(self, raw: Any) -> Result:
        # Not decode_result: that would look for the exception's class among what is imported here.
        meta = self._backend.decode(raw)
        return Result(meta["status"], meta.get("result"))

    def close(self) -> None:
        client = self._backend.__dict__.get("client")
        if client is not None and hasattr(client, "close"):
            client.close()


class _RedisStore(_KeyValueStore):
    """Publishes each result as it is stored, to a channel named like its key."""

    def pubsub(self) -> Any:
        # Celery's own client: TLS, Sentinel and credentials are as it makes them.
        return self._backend.client.pubsub()

    def channel(self, task_id: str) -> bytes:
        channel: bytes = self._backend.get_key_for_task(task_id)
        return channel


class _DatabaseStore:
    def __init__(self, backend: Any) -> None:
        # Celery makes a new engine, hence a new connection, for every read.
        options = dict(backend.engine_options)
        if "poolclass" not in options:
            options |= {"pool_size": 1, "max_overflow": 0}
        self._engine = sa.create_engine(backend.url, **options)
        self._table = backend.task_cls.__table__

    def fetch(self, task_ids: Sequence[str]) -> dict[str, Any]:
        columns = self._table.c
        wanted = sa.select(
            columns.task_id, columns.status, sa.type_coerce(columns.result, sa.LargeBinary)
        ).where(columns.task_id.in_(task_ids))
        with self._engine.connect() as connection:
            return {task_id: (status, pickled) for task_id, status, pickled in connection.execute(wanted)}

    def decode(self, raw: Any) -> Result:
        status, pickled = raw
        # Celery's own column is a PickleType: whoever can write it is trusted by every Airflow on Celery.
        return Result(status, pickle.loads(pickled) if pickled else None)  # noqa: S301

    def close(self) -> None:
        self._engine.dispose()


class _AnyStore:
    def __init__(self, backend: Any) -> None:
        self._backend = backend

    def fetch(self, task_ids: Sequence[str]) -> dict[str, Any]:
        metas = {task_id: self._backend.get_task_meta(task_id, cache=False) for task_id in task_ids}
        found = {task_id: Result(meta["status"], meta.get("result")) for task_id, meta in metas.items()}
        return {task_id: result for task_id, result in found.items() if result.status != states.PENDING}

    def decode(self, raw: Any) -> Result:
        result: Result = raw
        return result

    def close(self) -> None:
        """Nothing that could be closed is known of it."""


class ResultReader:
    """The result store of the app, opened when it is first read and again after each failure."""

    def __init__(self, app: Any, config: CeleryConfig) -> None:
        self._app = app
        self._config = config
        self._store: _Store | None = None
        self._seen: dict[str, Any] = {}
        #: Raw values of the last ``read``.
        self._read: dict[str, Any] = {}

    def read(self, task_ids: Sequence[str]) -> dict[str, Result]:
        """What is stored now, for those that have something. Raises ``ResultsUnavailable``.

        ``changes`` and ``heard`` tell it once more, unless it is ``known`` by then.
        """
        self._read, found = {}, {}
        for task_id, raw, result in self._decoded(task_ids, unless={}):
            self._read[task_id], found[task_id] = raw, result
        return found

    def known(self, task_id: str) -> None:
        """What was last read of this one has been told, and need not be told again."""
        if task_id in self._read:
            self._seen[task_id] = self._read.pop(task_id)

    def changes(self, task_ids: Sequence[str]) -> Iterator[tuple[str, Result]]:
        """What differs from what is known, each as it is read. Raises ``ResultsUnavailable`` at the end.

        One is known when it is told, not when it is read: what a failure has
        kept from whoever asks is told by the next read.
        """
        for task_id, raw, result in self._decoded(task_ids, unless=self._seen):
            self._seen[task_id] = raw
            yield task_id, result

    def heard(self, raws: Mapping[str, Any]) -> Iterator[tuple[str, Result]]:
        """What differs, of results that were pushed, from what is known; known when it is told."""
        for task_id, raw in raws.items():
            if self._store and self._seen.get(task_id) != raw and (r := _decode(self._store, task_id, raw)):
                self._seen[task_id] = raw
                yield task_id, r

    def pubsub(self) -> Any | None:
        """A subscriber to what the store publishes; None if it publishes nothing. Does not connect."""
        self._store = self._store or self._open()
        return self._store.pubsub() if isinstance(self._store, _RedisStore) else None

    def channel(self, task_id: str) -> bytes:
        """Where a Redis store publishes the results of a task; anything for other stores."""
        self._store = self._store or self._open()
        return self._store.channel(task_id) if isinstance(self._store, _RedisStore) else task_id.encode()

    def forget(self, task_id: str) -> None:
        """This one is no longer asked for."""
        self._seen.pop(task_id, None)

    def close(self) -> None:
        """Close the connections; the next read opens them again."""
        if self._store is not None:
            self._store.close()
        self._store = None

    def _decoded(
        self, task_ids: Sequence[str], unless: Mapping[str, Any]
    ) -> Iterator[tuple[str, Any, Result]]:
        for start in range(0, len(task_ids), self._config.results_chunk):
            with self._errors():
                self._store = store = self._store or self._open()
                raws = store.fetch(task_ids[start : start + self._config.results_chunk])
            for task_id, raw in raws.items():
                if unless.get(task_id) != raw and (result := _decode(store, task_id, raw)):
                    yield task_id, raw, result

    def _open(self) -> _Store:
        cls, url = backends.by_url(self._app.backend_cls or self._app.conf.result_backend, self._app.loader)
        backend = cls(app=self._app, url=url)
        if isinstance(backend, DatabaseBackend):
            return _DatabaseStore(backend)
        if not isinstance(backend, BaseKeyValueStoreBackend):
            return _AnyStore(backend)
        if hasattr(backend, "connparams"):
            backend.connparams["socket_timeout"] = self._config.read_timeout_s
            backend.connparams.setdefault("socket_connect_timeout", None)
            backend.connparams["socket_connect_timeout"] = self._config.read_timeout_s
        return _RedisStore(backend) if isinstance(backend, RedisBackend) else _KeyValueStore(backend)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (RedisError, SQLAlchemyError, KombuError, CeleryError, OSError) as error:
            self.close()
            raise ResultsUnavailable(error_text(error)) from error


def _decode(store: _Store, task_id: str, raw: Any) -> Result | None:
    try:
        return store.decode(raw)
    except (KombuError, pickle.UnpicklingError, LookupError, ValueError, TypeError, ImportError) as error:
        log.warning("the result of Celery task %s can't be read: %s", task_id, error_text(error))
        return None
