"""Takes over what Airflow offers when a scheduler is gone, or when ``[core] executor`` has changed.

What the ledger knows is adopted: its backend is asked what became of it. What
the ledger does not know and yet runs was sent by another executor, and is
inherited: it gets a name and a row of its own, in Airflow's transaction, and
its backend is asked to watch it. All else was never sent by us, or waits in
another executor's queue: Airflow resets it, which gives the task instance a new
id, and the Execution API turns away whatever may still come of the old one.
Called by the executor.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session, object_session

from hybrid_executor import contract
from hybrid_executor.controller import Controller
from hybrid_executor.inflight import Flight
from hybrid_executor.lifecycle import Phase
from hybrid_executor.model.attempt import Attempt, BackendName, Route
from hybrid_executor.model.errors import LedgerUnavailable
from hybrid_executor.model.record import SubmissionRecord
from hybrid_executor.ports import Backend, Ledger

if TYPE_CHECKING:
    from airflow.models.taskinstance import TaskInstance

log = logging.getLogger("hybrid_executor")

INHERITED = "was running under another executor when [core] executor became this one"


class Adoption:
    """The adoptions of one started executor."""

    def __init__(
        self,
        *,
        controller: Controller,
        backends: Mapping[BackendName, Backend],
        ledger: Ledger,
        stage: Callable[[Flight, Session], None],
        route: Callable[[str], Route | None],
    ) -> None:
        """``stage`` keeps a flight until the session commits; ``route`` is the present one of a queue."""
        self._controller = controller
        self._backends = backends
        self._ledger = ledger
        self._stage = stage
        self._route = route
        #: Adopted attempts whose ledger rows could not be read yet.
        self._waiting: list[Attempt] = []

    def offer(self, tis: Sequence["TaskInstance"]) -> Sequence["TaskInstance"]:
        """Take what can be taken; return the rest, which Airflow resets in the same transaction."""
        session = object_session(tis[0]) if tis else None
        if session is None:
            return tis
        in_stock_pods = contract.name_running(tis, session)
        attempts = contract.read_adoptable(tis, session)
        unknown = self._adopt(list(attempts.values()))
        taken = {ti_id for ti_id, attempt in attempts.items() if attempt.id not in unknown}
        for ti in tis:
            if str(ti.id) not in taken and contract.has_process(ti):
                backend = BackendName.KUBERNETES if ti in in_stock_pods else BackendName.CELERY
                self._stage(_inherited(attempts[str(ti.id)], backend), session)
                taken.add(str(ti.id))
        contract.restart_wait(ti for ti in tis if str(ti.id) in taken)
        left = [ti for ti in tis if str(ti.id) not in taken]
        if left:
            # A pod that another executor made and that has not started would only be turned away.
            self._backends[BackendName.KUBERNETES].inherit({}, unwanted=[str(ti.id) for ti in left])
        return left

    def go_on(self) -> None:
        """Adopt what had to wait for the ledger."""
        if self._waiting:
            self._adopt(self._waiting)

    def _adopt(self, attempts: Sequence[Attempt]) -> set[str]:
        """Adopt what the ledger knows and return the ids of the rest; while it is away, adopt later."""
        try:
            rows = self._ledger.find([attempt.id for attempt in attempts])
        except LedgerUnavailable as error:
            log.warning("%d attempts are adopted as soon as the ledger can be read: %s", len(attempts), error)
            self._waiting = list(attempts)
            return set()
        self._waiting = []
        known = [attempt for attempt in attempts if attempt.id in rows]
        # Thousands of attempts took a handful of routes.
        route_of = cache(self._route_of)
        flights = []
        for attempt in known:
            row = rows[attempt.id]
            flights.append(_adopted(attempt, row, route_of(attempt.queue, _recorded_route(row))))
        self._controller.adopt(flights)
        log.info("adopted %d of %d attempts of dead schedulers", len(known), len(attempts))
        return {attempt.id for attempt in attempts} - set(rows)

    def _route_of(self, queue: str, recorded: Route) -> Route:
        """The ledger does not keep what shapes the pod; one that is made anew has it by the same rule."""
        now = self._route(queue)
        return now if now and now.as_recorded == recorded else recorded


def _recorded_route(row: SubmissionRecord) -> Route:
    return Route(
        backend=row.backend,
        cluster=row.cluster,
        rule=row.rule,
        pod_template_file=row.pod_template_file,
        retry_on=row.retry_on,
        retry_limit=row.retry_limit,
    )


def _adopted(attempt: Attempt, row: SubmissionRecord, route: Route) -> Flight:
    return Flight(
        attempt=replace(attempt, route=route, queued_at=row.queued_at),
        key=contract.key_of(attempt),
        number=row.id.number,
        phase=_phase_of(row),
        recorded=True,
        where=row.where,
        # Between the two only its former scheduler could tell.
        sent_at=row.submitted_at or row.queued_at,
        accepted_at=row.submitted_at,
        started_at=row.started_at,
        external_name=row.external_name,
        worker_leaves=row.worker_leaves_at is not None,
    )


def _inherited(attempt: Attempt, backend: BackendName) -> Flight:
    log.info("inherited %s of another executor as attempt %s on %s", attempt.address, attempt.id, backend)
    return Flight(
        attempt=replace(attempt, route=Route(backend=backend, rule=INHERITED)),
        key=contract.key_of(attempt),
        phase=Phase.STARTED,
        inherited=True,
    )


def _phase_of(row: SubmissionRecord) -> Phase:
    """How far a submission had come when its scheduler died, as far as that was recorded."""
    if row.started_at:
        return Phase.STARTED
    return Phase.ACCEPTED if row.submitted_at else Phase.SENT
