"""The servers besides API server and database: broker, result store, live half of the ledger."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from uuid import uuid4

from hybrid_executor.backends.celery.app import provider_app
from hybrid_executor.backends.celery.redaction import redacted
from hybrid_executor.doctor.finding import TIMEOUT_S, Finding, findings
from hybrid_executor.meter import Meter
from hybrid_executor.model.errors import BrokerUnavailable, ConfigError, HybridExecutorError
from hybrid_executor.settings import Settings


def celery(settings: Settings) -> Iterator[Finding]:
    """Broker and result store, through the app that scheduler and workers use."""
    try:
        app = provider_app()
    except ConfigError as error:
        yield Finding("broker", str(error))
        return
    yield _answers("broker", "correct [celery] broker_url or start it", lambda: _reach_broker(app))
    yield _answers(
        "result backend",
        "correct [celery] result_backend or start it",
        lambda: _reach_results(app, settings),
    )
    yield from _workers(app, settings)


def _workers(app: object, settings: Settings) -> Iterator[Finding]:
    """Those that are connected and take nothing of what waits; silent where the broker is away."""
    from hybrid_executor.backends.celery.workers import WorkerWatch  # noqa: PLC0415

    config = replace(settings.celery, read_timeout_s=TIMEOUT_S)
    with contextlib.suppress(BrokerUnavailable):  # which is a finding of its own
        idle = WorkerWatch(app, config, tuple, Meter()).find()
        problems = [
            f"{name} is connected and takes nothing, although messages wait in {', '.join(sorted(queues))};"
            " restart it (celery#8030)"
            for name, queues in sorted(idle.items())
        ]
        yield from findings("Celery workers", problems)


def _answers(check: str, remedy: str, reach: Callable[[], str]) -> Finding:
    try:
        return Finding(check, note=reach())
    except HybridExecutorError as error:
        return Finding(check, f"does not answer ({error}); {remedy}")


def _reach_broker(app: object) -> str:
    # Imported here, as by the backend's start: kombu takes its time.
    from hybrid_executor.backends.celery.broker import broker_errors, open_broker  # noqa: PLC0415

    connection = open_broker(app, TIMEOUT_S)
    try:
        with broker_errors(connection):
            connection.connect()
            return str(connection.as_uri(include_password=False))
    finally:
        with contextlib.suppress(*connection.connection_errors):
            connection.release()


def _reach_results(app: object, settings: Settings) -> str:
    from hybrid_executor.backends.celery.results import ResultReader  # noqa: PLC0415

    reader = ResultReader(app, replace(settings.celery, read_timeout_s=TIMEOUT_S))
    try:
        reader.read([str(uuid4())])
    finally:
        reader.close()
    return ""


def live(settings: Settings) -> Iterator[Finding]:
    """The server of the ledger's live half, and what its user may do; tried on keys that are gone again."""
    config = settings.live
    if config is None:
        yield Finding("live ledger", note="off")
        return
    # Imported here: redis-py takes its time.
    from hybrid_executor.ledger.live.trial import attempt_everything  # noqa: PLC0415

    try:
        attempt_everything(replace(config, timeout_s=TIMEOUT_S))
    except HybridExecutorError as error:
        remedy = (
            "correct [hybrid_executor] live_url or its user's rights, or set it to off; no task waits for it"
        )
        yield Finding("live ledger", f"can't be used ({redacted(str(error))}); {remedy}")
        return
    yield Finding("live ledger", note=f"keys begin with {{{config.prefix}}}")
