"""Checks everything that the executor needs: settings, files, versions, connections, permissions, migrations.

Each check is a function that yields findings, looks but never changes
anything that counts, waits a few seconds at most, and prints no secret. Called by
``airflow hybrid doctor``.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, requires, version
from uuid import uuid4

from packaging.requirements import Requirement
from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from hybrid_executor import contract
from hybrid_executor.backends.celery.app import provider_app
from hybrid_executor.backends.celery.redaction import error_text, redacted
from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.backends.kubernetes.permissions import (
    NEEDED,
    NEEDED_FOR_LOGS,
    NEEDED_FOR_PODS,
    NEEDED_FOR_VIEW,
    NEEDED_FOR_WORKERS,
    Permission,
    Permissions,
)
from hybrid_executor.backends.kubernetes.templates import Templates
from hybrid_executor.ledger.history import History
from hybrid_executor.ledger.revisions import current_problem
from hybrid_executor.meter import Meter
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.errors import (
    BrokerUnavailable,
    ConfigError,
    HybridExecutorError,
    LedgerUnavailable,
)
from hybrid_executor.pods.build import ENTRY_OWN
from hybrid_executor.routing import RoutingTable
from hybrid_executor.settings import Settings, load_routing

DISTRIBUTION = "airflow-hybrid-executor"
#: Longest wait for one answer from outside.
TIMEOUT_S = 5.0
#: Between two looks at queues whose next message may be about to be taken.
LOOK_AGAIN_S = 1.5
IN_SETTINGS = "[kubernetes_executor] in_cluster, config_file"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: what was looked at, and what is wrong with it (None: nothing)."""

    check: str
    problem: str | None = None
    #: Where nothing is wrong: what is worth knowing.
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.problem is None


def examine(settings: Settings) -> Iterator[Finding]:
    """Run every check; a finding comes as soon as it is known."""
    yield from _settings(settings)
    yield _versions()
    table = yield from _routes(settings)
    yield from _pod_templates(settings, table)
    yield from _celery(settings)
    if table is None or any(rule.route.backend is BackendName.KUBERNETES for rule in table.rows()):
        for config in settings.every_cluster.values():
            yield from _kubernetes(settings, config)
    yield from _live(settings)
    yield from _database(settings, table)


def _settings(settings: Settings) -> Iterator[Finding]:
    for problem in settings.problems:
        yield Finding("settings", problem)
    if not settings.problems:
        yield Finding("settings", note="; ".join(settings.notes))
    yield Finding(
        "token key",
        None
        if settings.signing_key_is_set
        else "[api_auth] jwt_secret: is not set, so each process makes up its own and no task can start;"
        " set the same long random value for every component",
    )


def _versions() -> Finding:
    problems = []
    try:
        needed = [Requirement(line) for line in requires(DISTRIBUTION) or ()]
    except PackageNotFoundError:
        return Finding("versions", f"{DISTRIBUTION} is not installed as a package; install it with pip")
    for requirement in needed:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            have = version(requirement.name)
        except PackageNotFoundError:
            problems.append(f"{requirement} is not installed")
            continue
        if not requirement.specifier.contains(have, prereleases=True):
            problems.append(f"{requirement.name} is {have}, needed is {requirement.specifier}")
    return Finding("versions", f"{'; '.join(problems)}; install what is needed" if problems else None)


def _routes(settings: Settings) -> Generator[Finding, None, RoutingTable | None]:
    """Return the table besides, or None."""
    try:
        table = load_routing(settings)
    except ConfigError as error:
        for problem in error.problems:
            yield Finding("routes", problem)
        return None
    yield Finding("routes", note=settings.routes_file or "no routes file")
    forgiving = ", ".join(
        rule.pattern
        for rule in table.rows()
        if rule.route.retry_on and rule.route.backend is BackendName.KUBERNETES
    )
    if settings.measure_pods:
        text = f"pods are started by {ENTRY_OWN} (measure_pods): it must be in their images"
        yield Finding("routes", note=text)
    elif forgiving:
        text = f"pods of {forgiving} are started by {ENTRY_OWN} (retry_on): it must be in their image"
        yield Finding("routes", note=text)
    return table


def _pod_templates(settings: Settings, table: RoutingTable | None) -> Iterator[Finding]:
    """Each file, and each route whose ``pod`` defaults do not go with its template."""
    templates = Templates(settings.pod_template_file)
    routes = [rule.route for rule in table.rows()] if table else []
    paths = {settings.pod_template_file: "[kubernetes_executor] pod_template_file"}
    for route in routes:
        paths.setdefault(route.pod_template_file or "", route.rule)
    told: set[str] = set()
    for path, source in paths.items():
        if path:
            problems = templates.problems_of(path)
            told.update(problems)
            yield from _findings(f"pod template {path}", [f"{line} (named by {source})" for line in problems])
    yield from (Finding("routes", line) for line in templates.load(routes) if line not in told)


def _findings(check: str, problems: list[str]) -> Iterator[Finding]:
    if not problems:
        yield Finding(check)
    for problem in problems:
        yield Finding(check, problem)


def _celery(settings: Settings) -> Iterator[Finding]:
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
        idle = WorkerWatch(app, config, tuple, Meter()).find(LOOK_AGAIN_S)
        problems = [
            f"{name} is connected and takes nothing, although messages wait in {', '.join(sorted(queues))};"
            " restart it (celery#8030)"
            for name, queues in sorted(idle.items())
        ]
        yield from _findings("Celery workers", problems)


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


def _live(settings: Settings) -> Iterator[Finding]:
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


def _kubernetes(settings: Settings, config: KubernetesConfig) -> Iterator[Finding]:
    """One cluster: whether it answers, and what it lets the executor do."""
    of = f" of cluster {config.cluster}" if config.cluster else ""
    try:
        missing = asyncio.run(_missing_permissions(settings, config))
        for_view = asyncio.run(_missing(config, None, NEEDED_FOR_VIEW)) if config.cluster_view else []
        apart = _workers_apart(config)
        for_workers = asyncio.run(_missing(config, apart, NEEDED_FOR_WORKERS)) if apart else []
    except HybridExecutorError as error:
        where = f"{settings.clusters_file}, kubeconfig and context" if of else IN_SETTINGS
        remedy = f"check {where}, the credentials and the API server"
        yield Finding(f"Kubernetes API{of}", f"can't be used ({redacted(str(error))}); {remedy}")
        return
    yield Finding(f"Kubernetes API{of}")
    if for_view:
        what = f"not allowed in the whole cluster: {', '.join(for_view)}"
        remedy = "bind workers/rbac/cluster-view-clusterrole.yaml, or set cluster_view = False"
        yield Finding(f"cluster view{of}", f"{what}; {remedy}")
    if apart:
        what = f"not allowed: {', '.join(for_workers)}"
        remedy = "bind workers/rbac/scheduler-role.yaml there, or correct [hybrid_executor] workers_namespace"
        problem = f"{what}; {remedy}" if for_workers else None
        yield Finding(f"Kubernetes permissions for pools of workers in {apart}", problem)
    for scope, (verbs, for_logs) in missing.items():
        problem = f"not allowed: {', '.join(verbs)}; give the scheduler's role these verbs" if verbs else None
        note = f"the API server's account needs besides: {', '.join(for_logs)}" if for_logs else ""
        yield Finding(f"Kubernetes permissions in {scope or 'all namespaces'}{of}", problem, note)


def _workers_apart(config: KubernetesConfig) -> str | None:
    """The namespace of pools, in the home cluster, where no task pods are watched."""
    namespace = None if config.cluster else config.workers_namespace
    return namespace if namespace and not config.watches(namespace) else None


async def _missing(
    config: KubernetesConfig, namespace: str | None, needed: Collection[Permission]
) -> list[str]:
    api = Permissions(replace(config, request_timeout_s=TIMEOUT_S))
    try:
        return await api.missing(namespace, needed)
    finally:
        await api.close()


async def _missing_permissions(
    settings: Settings, config: KubernetesConfig
) -> dict[str | None, tuple[list[str], list[str]]]:
    """By namespace: what the scheduler lacks, and what its account could not do in the API server's place."""
    api = Permissions(replace(config, request_timeout_s=TIMEOUT_S))
    needed = NEEDED if settings.workload_secret else NEEDED_FOR_PODS
    try:
        return {
            scope: (await api.missing(scope, needed), await api.missing(scope, NEEDED_FOR_LOGS))
            for scope in config.watched
        }
    finally:
        await api.close()


def _database(settings: Settings, table: RoutingTable | None) -> Iterator[Finding]:
    engine = contract.metadata_engine()
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except SQLAlchemyError as error:
        remedy = "correct [database] sql_alchemy_conn or start it"
        yield Finding("metadata database", f"does not answer ({error_text(error)}); {remedy}")
        return
    yield Finding("metadata database")
    yield Finding("ledger", current_problem(engine))
    yield from _strangers(engine, settings)
    if settings.pools and table:
        yield from _pools(engine, settings, table)


def _strangers(engine: Engine, settings: Settings) -> Iterator[Finding]:
    """Unfinished task instances of executors that are configured no more: no scheduler adopts these."""
    known = {*settings.executor_names, *settings.other_executors}
    try:
        counted = contract.unfinished_by_executor(engine)
    except SQLAlchemyError as error:
        yield Finding("task instances", f"can't be counted ({error_text(error)}); run airflow db migrate")
        return
    strangers = {name: count for name, count in counted.items() if name not in known}
    for name, count in sorted(strangers.items()):
        yield Finding(
            "task instances",
            f"{count} unfinished name executor {name!r}, which [core] executor no longer has: nobody runs or"
            f" adopts them; clear them, or keep the name as an alias ({name}:hybrid_executor.HybridExecutor)",
        )
    if not strangers:
        yield Finding("task instances")


def _pools(engine: Engine, settings: Settings, table: RoutingTable) -> Iterator[Finding]:
    """Queues of Celery that something is on, or was in the last day, and that no pool serves."""
    try:
        counts = History(engine).counts(datetime.now(UTC) - timedelta(days=1))
        known = set(contract.unfinished_by_queue(engine))
    except (SQLAlchemyError, LedgerUnavailable) as error:
        yield Finding("pools", f"can't be compared with queues ({error}); run airflow db migrate")
        return
    used = {queue for queue in known if table.route(queue).backend is BackendName.CELERY}
    used |= {one.queue for one in counts if one.backend is BackendName.CELERY} | {settings.default_queue}
    served = {queue for pool in settings.pools for queue in pool.queues}
    for queue in sorted(used - served):
        yield Finding(
            "pools",
            f"no pool serves queue {queue!r}, so no worker is started for what is on it;"
            f" add it to one of {settings.pools_file}, or route it to pods",
        )
    if used <= served:
        yield Finding("pools", note=f"{len(settings.pools)} serve every queue that is in use")
