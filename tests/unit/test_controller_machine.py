"""The controller under everything that can go wrong, in random order, against the shipped fakes.

One rule is one thing that happens in the world. Whatever happened, once both
sides, the ledger and the metadata database answer again, every task has ended,
none has run twice, and nothing is left open.
"""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hybrid_executor.backends.memory import MemoryBackend, MemoryWorld, Run
from hybrid_executor.comparison import LINGER_S
from hybrid_executor.controller import Controller
from hybrid_executor.inflight import Flight, Inflight
from hybrid_executor.ledger.memory import MemoryLedger
from hybrid_executor.lifecycle import Phase, Policy
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.observation import Diagnosis, How
from hybrid_executor.model.reason import Reason
from tests.fixtures.airflow_double import FakeTasks, Heard, ManualClock, Row, make_attempt

PARALLELISM = 5
LIMITS = {BackendName.KUBERNETES: 2, BackendName.CELERY: 0}
RECONCILE_S = 5.0
OPEN = ("queued", "running", "restarting")


class Everything(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.worlds = {name: MemoryWorld() for name in BackendName}
        self.ledger = MemoryLedger()
        self.tasks = FakeTasks()
        self.heard = Heard()
        self.owner = 0
        self.queued = 0
        self._boot()

    def _boot(self) -> None:
        self.owner += 1
        self.tasks.live = {str(self.owner)}
        self.backends = {
            name: MemoryBackend(world, name=name, owner=str(self.owner))
            for name, world in self.worlds.items()
        }
        for backend in self.backends.values():
            backend.start()
        self.controller = Controller(
            backends=self.backends,
            ledger=self.ledger,
            tasks=self.tasks,
            listener=self.heard,
            inflight=Inflight(parallelism=PARALLELISM, limits=LIMITS, held_limit=100),
            policy=Policy(submission_limit=50),
            clock=self.clock,
            owner=str(self.owner),
            token_life_s=1000.0,
            reconcile_interval_s=RECONCILE_S,
            refresh_s=RECONCILE_S,
        )

    # --- what Airflow does -------------------------------------------------------------

    @rule(backend=st.sampled_from(BackendName), priority=st.integers(1, 3), recorded=st.booleans())
    def the_scheduler_queues_a_task(self, backend: BackendName, priority: int, recorded: bool) -> None:
        self.queued += 1
        attempt = make_attempt(backend=backend, priority=priority, task_id=f"t{self.queued}")
        assert attempt.address
        self.tasks.rows[attempt.address] = Row(attempt.address, "queued", attempt.id, str(self.owner))
        flight = Flight(attempt=attempt, key=attempt.address, parcel="parcel")
        if recorded and not self.ledger.away:
            self.ledger.insert(None, [self.controller.row_of(flight)])
            flight.recorded = True
        self.controller.release(flight)

    @rule()
    def a_heartbeat(self) -> None:
        self.controller.step()
        self._believe_events()

    def _believe_events(self) -> None:
        """What the scheduler does with failed events of task instances that are still open."""
        for key, state in self.heard.events:
            row = self.tasks.rows[key]
            if state == "failed" and row.state in OPEN:
                row.state = "failed"
        self.heard.events.clear()

    @rule(seconds=st.sampled_from([1.0, RECONCILE_S, LINGER_S * 2]))
    def time_passes(self, seconds: float) -> None:
        self.clock.elapsed_s += seconds

    @rule(data=st.data())
    def a_user_marks_a_task_failed(self, data: st.DataObject) -> None:
        rows = [row for row in self.tasks.rows.values() if row.state in OPEN]
        if rows:
            data.draw(st.sampled_from(rows)).state = "failed"

    @rule(data=st.data())
    def a_user_clears_a_waiting_task_and_it_is_queued_again(self, data: st.DataObject) -> None:
        flights = [
            f for f in self.controller.inflight if f.phase in (Phase.READY, Phase.BACKOFF, Phase.ACCEPTED)
        ]
        rows = {f.attempt.id: self.tasks.rows[f.attempt.address] for f in flights if f.attempt.address}
        flights = [f for f in flights if rows[f.attempt.id].state == "queued"]
        flights = [f for f in flights if rows[f.attempt.id].attempt_id == f.attempt.id]
        if not flights:
            return
        old = data.draw(st.sampled_from(flights))
        row = rows[old.attempt.id]
        new = make_attempt(backend=old.backend, task_id=row.address.task_id)
        row.attempt_id = new.id
        self.controller.release(Flight(attempt=new, key=row.address, parcel="parcel"))

    # --- what the backends' other sides do ---------------------------------------------

    def _runs(self, started: bool) -> list[tuple[MemoryWorld, Run]]:
        return [
            (world, run)
            for world in self.worlds.values()
            for run in world.runs.values()
            if run.started is started and run.how is None and not run.lacks_payload
        ]

    @rule(data=st.data())
    def a_process_starts(self, data: st.DataObject) -> None:
        if not (waiting := self._runs(started=False)):
            return
        world, run = data.draw(st.sampled_from(waiting))
        world.start(run.submission.id)
        if not self.tasks.run(run.submission.attempt):
            world.end(run.submission.id, How.FAILED, Diagnosis(reason=Reason.ERROR, message="refused"))

    @rule(data=st.data(), good=st.booleans())
    def a_process_ends_the_task(self, data: st.DataObject, good: bool) -> None:
        if not (running := self._runs(started=True)):
            return
        world, run = data.draw(st.sampled_from(running))
        row = self.tasks.rows[run.submission.attempt.address]
        if row.state == "running":
            row.state = "success" if good else "failed"
        world.end(run.submission.id, How.SUCCEEDED)

    @rule(data=st.data(), started=st.booleans())
    def a_process_dies_without_a_word(self, data: st.DataObject, started: bool) -> None:
        if not (runs := self._runs(started=started)):
            return
        world, run = data.draw(st.sampled_from(runs))
        world.end(run.submission.id, How.FAILED, Diagnosis(reason=Reason.OOM_KILLED, exit_code=137))

    @rule(name=st.sampled_from(BackendName), away=st.booleans())
    def a_backend_goes_or_comes_back(self, name: BackendName, away: bool) -> None:
        self.worlds[name].away = away

    @rule(name=st.sampled_from(BackendName), cut_short=st.booleans())
    def payloads_get_lost_or_through(self, name: BackendName, cut_short: bool) -> None:
        self.worlds[name].cut_short = cut_short

    @rule(away=st.booleans())
    def the_ledger_goes_or_comes_back(self, away: bool) -> None:
        self.ledger.away = away

    @rule(away=st.booleans())
    def the_metadata_database_goes_or_comes_back(self, away: bool) -> None:
        self.tasks.away = away

    @precondition(lambda self: not self.ledger.away and not self.tasks.away)
    @rule()
    def the_scheduler_is_killed_and_another_adopts(self) -> None:
        for backend in self.backends.values():
            backend.stop(0.0)
        self._boot()
        open_rows = [row for row in self.tasks.rows.values() if row.state in OPEN]
        known = self.ledger.find([row.attempt_id for row in open_rows])
        flights = []
        for row in open_rows:
            record = known.get(row.attempt_id)
            if record is None:
                # Not adopted: Airflow resets it and queues it anew, under a new name.
                row.state = "failed"
                continue
            row.owner = str(self.owner)
            attempt = make_attempt(
                backend=record.backend, task_id=row.address.task_id, attempt_id=row.attempt_id
            )
            flights.append(
                Flight(
                    attempt=attempt,
                    key=row.address,
                    number=record.id.number,
                    phase=Phase.ACCEPTED if record.submitted_at else Phase.SENT,
                    recorded=True,
                )
            )
        self.controller.adopt(flights)

    # --- what must hold ------------------------------------------------------------------

    @invariant()
    def what_is_sent_never_exceeds_its_limits(self) -> None:
        inflight = self.controller.inflight
        if self.owner == 1:
            assert inflight.sent() <= PARALLELISM
            assert inflight.sent(BackendName.KUBERNETES) <= LIMITS[BackendName.KUBERNETES]
        assert inflight.occupied() >= 0

    @invariant()
    def everything_was_recorded_before_it_was_sent(self) -> None:
        known = {record.id for record in self.ledger.records}
        assert {i for world in self.worlds.values() for i in world.received} <= known

    @invariant()
    def no_attempt_runs_twice(self) -> None:
        for row in self.tasks.rows.values():
            assert row.runs <= 1, row

    def teardown(self) -> None:
        for world in self.worlds.values():
            world.away = world.cut_short = False
        self.ledger.away = self.tasks.away = False
        for _ in range(400):
            self.clock.elapsed_s += 7.0
            self.controller.step()
            self._believe_events()
            for world, run in self._runs(started=False):
                world.start(run.submission.id)
                if not self.tasks.run(run.submission.attempt):
                    world.end(run.submission.id, How.FAILED, Diagnosis(reason=Reason.ERROR))
            for world, run in self._runs(started=True):
                row = self.tasks.rows[run.submission.attempt.address]
                if row.state == "running":
                    row.state = "success"
                world.end(run.submission.id, How.SUCCEEDED)
            if not len(self.controller.inflight) and not self._leftovers():
                break
        stuck = [row for row in self.tasks.rows.values() if row.state in OPEN]
        assert not stuck, f"never ended: {stuck}"
        assert not list(self.controller.inflight)
        assert not self._leftovers()

    def _leftovers(self) -> list[object]:
        runs: list[object] = [run for world in self.worlds.values() for run in world.runs.values()]
        rows: list[object] = [record for record in self.ledger.records if record.ended_at is None]
        return runs + rows


TestEverything = Everything.TestCase
TestEverything.settings = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
