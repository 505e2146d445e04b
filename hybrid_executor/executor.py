"""``HybridExecutor``: what Airflow sees. It only turns Airflow's calls into the controller's.

Constructing it starts nothing and connects nowhere, because the API server
constructs executors only to read logs; ``start`` opens, ``end`` and
``terminate`` close within a deadline. It never raises into the scheduler's
loop for what a user got wrong or what the outside world does.
"""

import logging
import time
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from hybrid_executor import contract
from hybrid_executor.adoption import Adoption
from hybrid_executor.backends.celery.backend import CeleryBackend
from hybrid_executor.backends.kubernetes.backend import KubernetesBackend
from hybrid_executor.backends.kubernetes.templates import Templates
from hybrid_executor.controller import Controller
from hybrid_executor.flower import FlowerTeller, open_teller
from hybrid_executor.inflight import Flight, Inflight
from hybrid_executor.ledger.database import DatabaseLedger
from hybrid_executor.ledger.live.writer import LiveWriter, open_writer
from hybrid_executor.lifecycle import Policy
from hybrid_executor.meter import FAILURES, LEDGER_LAG, MISMATCHES, POOL_WORKERS, Meter, Tags
from hybrid_executor.metrics import Emitter, measure
from hybrid_executor.model.attempt import (
    BackendName,
    Destination,
    Route,
    SubmissionId,
    TaskAddress,
    WorkloadKind,
)
from hybrid_executor.model.errors import ConfigError, LedgerUnavailable
from hybrid_executor.model.mismatch import Mismatch
from hybrid_executor.model.observation import Diagnosis
from hybrid_executor.model.transition import Transition
from hybrid_executor.model.worker import WorkerState
from hybrid_executor.ports import Backend, Ledger, Workers
from hybrid_executor.routing import RoutingTable
from hybrid_executor.settings import Settings, load_routing, load_settings
from hybrid_executor.settings.pods import pod_maker
from hybrid_executor.spans import Spans
from hybrid_executor.staging import Staging
from hybrid_executor.tasklog import TaskLogs
from hybrid_executor.transitionlog import TransitionLog

if TYPE_CHECKING:
    from airflow.executors.workloads import ExecutorWorkload
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy.orm import Session

log = logging.getLogger("hybrid_executor")

#: What a shutdown may take in all; Kubernetes and systemd give 30 s by default.
STOP_DEADLINE_S = 8.0
#: How often a routes file that was bad is read again, seconds.
ROUTES_AGAIN_S = 10.0


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic_s(self) -> float:
        return time.monotonic()


class HybridExecutor(contract.AirflowExecutor):
    """Runs each task where its queue says: in a pod of its own, or on a Celery worker."""

    supports_multi_team = False
    sentry_integration = "sentry_sdk.integrations.celery.CeleryIntegration"
    pre_assigns_external_executor_id: ClassVar[bool] = True

    def __init__(
        self,
        parallelism: int | None = None,
        team_name: str | None = None,
        *,
        settings: Settings | None = None,
        backends: Mapping[BackendName, Backend] | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        """Airflow passes nothing; tests pass settings, backends and a ledger of their own."""
        self.settings = settings or load_settings()
        super().__init__(parallelism=parallelism or self.settings.parallelism, team_name=team_name)
        self._meter = Meter()
        self._task_logs = TaskLogs(self.settings.log_folder)
        self._given_backends = backends
        self._given_ledger = ledger
        self._controller: Controller | None = None
        self._routing: RoutingTable | None = None
        self._templates = Templates(self.settings.pod_template_file)
        self._routes_read_s = float("-inf")
        #: Event log records of this turn, held until the scheduler has saved them.
        self._noted: list[Any] = []
        self._live: LiveWriter | None = None
        self._flower: FlowerTeller | None = None
        self._adoption: Adoption | None = None
        self._staging = Staging(insert=self._insert_rows, release=self._release)

    # --- life ---------------------------------------------------------------------------

    def start(self) -> None:
        """Open both backends; whichever is away is waited for while the other works."""
        if self.settings.problems:
            log.error("settings to correct (their defaults are used):\n%s", "\n".join(self.settings.problems))
        for note in self.settings.notes:
            log.warning("%s", note)
        self._live = self._open_live()
        self._controller = self._make_controller()
        self._meter.read(LEDGER_LAG, lambda: {(): self.controller.ledger_lag_s})
        self._meter.read(POOL_WORKERS, self._count_workers)
        self._adoption = Adoption(
            controller=self._controller,
            backends=self.backends,
            ledger=self._ledger,
            stage=self._staging.stage,
            route=lambda queue: self._routing.route(queue) if self._routing else None,
        )
        self._load_routing()
        for name, backend in self.backends.items():
            log.info("starting backend %s", name)
            backend.start()
        self._flower = self._open_flower()
        log.info("hybrid executor started, scheduler job %s", self._owner)

    def _make_controller(self) -> Controller:
        settings = self.settings
        return Controller(
            backends=self.backends,
            ledger=self._ledger,
            tasks=contract.AirflowTasks(
                tokens=self.jwt_generator, scheduler_grace_s=settings.scheduler_health_check_threshold_s
            ),
            listener=self,
            inflight=Inflight(
                parallelism=self.parallelism,
                limits={
                    BackendName.CELERY: settings.celery_parallelism,
                    BackendName.KUBERNETES: settings.kubernetes_parallelism,
                },
                held_limit=settings.held_limit,
            ),
            policy=Policy(
                submission_limit=settings.submission_limit,
                backoff_first_s=settings.backoff_first_s,
                backoff_max_s=settings.backoff_max_s,
                heartbeat_timeout_s=settings.task_instance_heartbeat_timeout_s,
            ),
            clock=SystemClock(),
            owner=self._owner,
            token_life_s=settings.token_life_s,
            # A wait with a known reason must be seen several times within the timeout that it defers.
            reconcile_interval_s=min(settings.reconcile_interval_s, settings.task_queued_timeout_s / 4),
            refresh_s=settings.task_queued_timeout_s / 4,
            live=self._live,
            workers=self._workers,
            pools=settings.pools,
        )

    @property
    def _workers(self) -> Workers | None:
        backend = self.backends[BackendName.KUBERNETES]
        return backend.workers if isinstance(backend, KubernetesBackend) else None

    def _count_workers(self) -> Mapping[Tags, float]:
        """By pool and state; nothing where workers are no pods, or nobody knows them yet."""
        pods = (self._workers.pods if self._workers else None) or {}
        return Counter(
            (pod.pool, str(pod.state)) for pod in pods.values() if pod.state is not WorkerState.GONE
        )

    def _open_live(self) -> LiveWriter | None:
        if self.settings.live is None or self._given_ledger is not None:
            return None
        return open_writer(
            self.settings.live,
            ledger=self._ledger,
            owner=self._owner,
            meter=self._meter,
            interval_s=self.settings.reconcile_interval_s,
        )

    def _open_flower(self) -> FlowerTeller | None:
        """Backends and ledgers that tests give have no broker."""
        is_given = self._given_ledger is not None or self._given_backends is not None
        if is_given or not self.settings.flower_events:
            return None
        return open_teller(
            contract.metadata_engine(),
            owner=self._owner,
            namespaces={name: one.namespace for name, one in self.settings.every_cluster.items()},
            celery=self.settings.celery,
            meter=self._meter,
        )

    @property
    def controller(self) -> Controller:
        """The controller of a started executor."""
        if self._controller is None:
            raise RuntimeError("HybridExecutor.start() has not been called")
        return self._controller

    @cached_property
    def backends(self) -> Mapping[BackendName, Backend]:
        """Both backends, constructed and not started."""
        if self._given_backends is not None:
            return self._given_backends
        return {
            BackendName.CELERY: CeleryBackend(self.settings.celery, meter=self._meter),
            BackendName.KUBERNETES: KubernetesBackend(
                self.settings.kubernetes,
                pod_maker(self.settings, self._templates, self._owner).make,
                owner=self._owner,
                meter=self._meter,
                others=[one.kubernetes for one in self.settings.clusters],
            ),
        }

    @cached_property
    def _ledger(self) -> Ledger:
        return self._given_ledger or DatabaseLedger(contract.metadata_engine())

    @cached_property
    def _emitter(self) -> Emitter:
        return Emitter(
            tagged=self.settings.metrics_are_tagged,
            scheduler=self._owner,
            pools=self.settings.pools,
            is_on=self.settings.metrics_are_on,
        )

    @cached_property
    def _spans(self) -> Spans:
        return Spans(is_on=self.settings.traces_are_on)

    @cached_property
    def _transitions(self) -> TransitionLog:
        return TransitionLog(self.settings.transitions_log, self._owner)

    @property
    def _owner(self) -> str:
        return str(self.job_id or 0)

    @cached_property
    def jwt_generator(self) -> Any:
        """Airflow's generator, but workload tokens live ``[hybrid_executor] token_life_s``."""
        return contract.WorkloadTokens(super().jwt_generator, self.settings.token_life_s)

    def end(self) -> None:
        """Stop within the deadline; what was handed over goes on, and is adopted by whoever comes next."""
        if self._controller is None:
            return
        self._controller.flush()
        self._transitions.flush()
        deadline_s = time.monotonic() + STOP_DEADLINE_S
        if self._flower:
            self._flower.stop(STOP_DEADLINE_S / 4)
        for backend in self.backends.values():
            backend.stop(max(1.0, deadline_s - time.monotonic()))
        if self._live:
            self._live.stop(max(1.0, deadline_s - time.monotonic()))

    def terminate(self) -> None:
        """Same as ``end``."""
        self.end()

    # --- queueing -----------------------------------------------------------------------

    def queue_workload(self, workload: "ExecutorWorkload", session: "Session") -> None:
        """Route a workload and keep it until the scheduler's transaction has committed; no I/O."""
        if contract.is_task(workload):
            contract.ensure_attempt_id(workload, session)
            contract.reapply_mutation_hook(workload, session)
        table = self._routing
        attempt = contract.attempt_of(
            workload,
            route=table.route if table else _no_route,
            callback_route=_callback_route,
            default_queue=self.settings.default_queue,
        )
        flight = Flight(
            attempt=attempt,
            key=self.get_workload_key(workload),
            parcel=workload,
            routed=table is not None or attempt.kind is not WorkloadKind.TASK,
        )
        self._staging.stage(flight, session)

    def _insert_rows(self, connection: Any, flights: Sequence[Flight]) -> None:
        self._ledger.insert(connection, [self.controller.row_of(flight) for flight in flights])

    def _release(self, flight: Flight) -> None:
        if flight.inherited:
            self.controller.inherit(flight)
        else:
            self.controller.release(flight)

    # --- heartbeat ----------------------------------------------------------------------

    def heartbeat(self) -> None:
        """One step of the controller; costs what has changed since the last."""
        if self._routing is None:
            self._load_routing()
        self._noted.clear()
        # The base class's books of what runs: what counts is the controller's.
        self.running.clear()
        if self._adoption:
            self._adoption.go_on()
        self.controller.step()
        inflight = self.controller.inflight
        sent = inflight.sent()
        self._emit_metrics(self.parallelism - sent, sent, len(inflight) - sent)  # type: ignore[no-untyped-call]
        self._emitter.emit(self._meter, inflight, datetime.now(UTC))
        self._transitions.flush()

    def sync(self) -> None:
        """Airflow's name for the part of a heartbeat that observes; the whole step here."""
        self.controller.step()

    def _process_workloads(self, workload_items: Sequence["ExecutorWorkload"]) -> None:
        """Send workloads that no transaction holds back; recorded first, like all others."""
        for workload in workload_items:
            with contract.own_session() as session:
                self.queue_workload(workload, session)
        self.controller.step()

    # --- the listener: what Airflow is told -----------------------------------------------

    def succeeded(self, key: Hashable) -> None:
        """See ``ports.Listener``."""
        super().change_state(key, contract.succeeded_state(key))  # type: ignore[arg-type]

    def failed(self, key: Hashable, diagnosis: Diagnosis) -> None:
        """See ``ports.Listener``."""
        self._meter.count(FAILURES, diagnosis.reason)
        super().change_state(key, contract.failed_state(key), diagnosis.advice)  # type: ignore[arg-type]

    def restarted(self, key: Hashable, address: TaskAddress, diagnosis: Diagnosis) -> None:
        """See ``ports.Listener``; the reason stands in the event log of both tries."""
        following = contract.next_try(address)
        self.note(following, "hybrid executor: follows a try that did not count", diagnosis.advice)
        super().change_state(key, contract.failed_state(key), diagnosis.advice)  # type: ignore[arg-type]

    def moved(self, step: Transition, parcel: Any) -> None:
        """See ``ports.Listener``."""
        if self.settings.metrics_are_on:
            measure(self._meter, step)
        self._transitions.note(step)
        if step.is_end:
            self._spans.note(step, contract.trace_carrier(parcel))

    def mismatched(
        self, submission: SubmissionId, backend: BackendName, mismatch: Mismatch, words: str
    ) -> None:
        """See ``ports.Listener``."""
        self._meter.count(MISMATCHES, backend, mismatch)
        log.info(
            "attempt_id=%s submission=%d backend=%s mismatch=%s %s", *submission, backend, mismatch, words
        )

    def note(self, key: Hashable, event: str, text: str) -> None:
        """See ``ports.Listener``."""
        for flight in self._flights_of(key):
            if flight.attempt.address:
                self.locate(key, flight.attempt.address)
        self.log_task_event(event=event, extra=text, ti_key=key)  # type: ignore[arg-type]
        # The scheduler takes records out of the deque while it saves them, and SQLAlchemy's bulk
        # save keeps no reference: a record that nobody else holds is saved as an empty row, which
        # the database refuses together with all others (Airflow 3.3.2, SQLAlchemy 2.1).
        self._noted.extend(list(self._task_event_logs)[-1:])

    def log_line(self, parcel: Any, backend: BackendName, text: str) -> None:
        """See ``ports.Listener``."""
        self._task_logs.tell(
            getattr(parcel, "log_path", None), text, in_pod=backend is BackendName.KUBERNETES
        )

    # --- what the scheduler asks and says --------------------------------------------------

    def change_state(self, key: Any, state: Any, info: Any = None, remove_running: bool = True) -> None:
        """The scheduler's word that a task is over (no heartbeat, stuck): its attempt is withdrawn."""
        for flight in self._flights_of(key):
            self.controller.revoke(flight)
        super().change_state(key, state, info, remove_running)

    def has_task(self, task_instance: "TaskInstance") -> bool:
        """Whether an attempt of the task instance is on its way, held or running here."""
        key = self.get_task_key(task_instance)
        return bool(self._flights_of(key)) or self._staging.holds(key)

    def revoke_task(self, *, ti: "TaskInstance") -> None:
        """Withdraw a task instance's attempts; raises, emits and changes nothing."""
        for flight in self._flights_of(self.get_task_key(ti)):
            self.controller.revoke(flight)

    def fail_connection_test(self, key: Any) -> None:
        """Drop a connection test that took too long."""
        for flight in self._flights_of(key):
            self.controller.revoke(flight)

    def _flights_of(self, key: Hashable) -> list[Flight]:
        return self._controller.inflight.of_key(key) if self._controller else []

    @property
    def slots_occupied(self) -> int:
        """Attempts that count against ``[core] parallelism``: those held for a backend do not."""
        return self._controller.inflight.occupied() if self._controller else 0

    @property
    def slots_available(self) -> int:
        """How many more the scheduler may queue."""
        return self.parallelism - self.slots_occupied

    def debug_dump(self) -> None:
        """Log every attempt in flight, on SIGUSR2."""
        for flight in self._controller.inflight if self._controller else ():
            log.info("in flight: %s %s %s %s", flight.id, flight.backend, flight.phase.name, flight.reason)
        log.info("End of attempts in flight")

    # --- adoption ---------------------------------------------------------------------------

    def try_adopt_task_instances(self, tis: Sequence["TaskInstance"]) -> Sequence["TaskInstance"]:
        """Take over what is on its way or runs, whoever sent it; return the rest, which is reset."""
        return self._adoption.offer(tis) if self._adoption else tis

    # --- logs -------------------------------------------------------------------------------

    def get_task_log(self, ti: "TaskInstance", try_number: int) -> tuple[list[str], list[str]]:  # noqa: ARG002
        """The log of a running pod; nothing at all for Celery, whose workers serve their own logs.

        Any message would keep Airflow from asking the worker, so none is returned there.
        """
        attempt_id = ti.external_executor_id
        if not attempt_id or not ti.queue:
            return [], []
        to = self._destination_of(attempt_id, ti.queue)
        if to is None or to.backend is not BackendName.KUBERNETES:
            return [], []
        lines = self.backends[to.backend].log(attempt_id, to.cluster)
        if lines is None:
            return [], []
        return [f"Found logs in the pod of attempt {attempt_id}"], ["\n".join(lines)]

    def _destination_of(self, attempt_id: str, queue: str) -> Destination | None:
        """Where an attempt went, whatever routes say by now; what they say, where that is not known."""
        try:
            if row := self._ledger.find([attempt_id]).get(attempt_id):
                return Destination(row.backend, row.cluster)
        except LedgerUnavailable as error:
            log.info("the ledger does not say where attempt %s is: %s", attempt_id, error)
        table = self._routing or self._load_routing()
        return table.route(queue).destination if table else None

    # --- routes -----------------------------------------------------------------------------

    def _load_routing(self) -> RoutingTable | None:
        """Read the routes; while they are bad, tasks wait with that reason and nothing stops."""
        now_s = time.monotonic()
        if now_s - self._routes_read_s < ROUTES_AGAIN_S:
            return self._routing
        self._routes_read_s = now_s
        try:
            self._routing = load_routing(self.settings)
        except ConfigError as error:
            log.warning("tasks wait until the routes are right:\n%s", error)
            return None
        if self._controller:
            self._templates.load(rule.route for rule in self._routing.rows())
            for flight in self._controller.inflight:
                if not flight.routed:
                    self._controller.reroute(flight, self._routing.route(flight.attempt.queue))
        return self._routing


def _no_route(queue: str) -> Route:
    return Route(backend=BackendName.CELERY, rule=f"queue {queue}: no valid routes yet")


def _callback_route(queue: str) -> Route:  # noqa: ARG001
    return Route(backend=BackendName.CELERY, rule="callbacks and connection tests run on Celery workers")
