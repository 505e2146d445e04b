"""The whole executor under the real scheduler's code, with backends in memory."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text

from hybrid_executor.airflowtables import A_ROW_PER_TRY, PAST_TRIES
from hybrid_executor.backends.memory import MemoryBackend, MemoryWorld
from hybrid_executor.executor import HybridExecutor
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.observation import Diagnosis, How, Rejected
from hybrid_executor.model.reason import Reason
from tests.fixtures.airflow_side import SchedulerSide

CELERY, KUBERNETES = BackendName.CELERY, BackendName.KUBERNETES


class Rig:
    """One scheduler, one executor, two worlds."""

    def __init__(self, side: SchedulerSide) -> None:
        self.side = side
        self.worlds = {name: MemoryWorld() for name in BackendName}
        #: A cluster that routes may name.
        self.east = MemoryWorld()
        self.backends = {
            name: MemoryBackend(world, name=name, clusters={"east": self.east})
            for name, world in self.worlds.items()
        }
        self._begin()

    def _begin(self) -> None:
        self.executor = HybridExecutor(backends=self.backends)
        self.runner = self.side.runner(self.executor)
        for backend in self.backends.values():
            backend.owner = str(self.executor.job_id)

    def die(self) -> None:
        """The scheduler is silent from here on."""
        self.sql("update job set latest_heartbeat = now() - interval '1 hour'")

    def follow(self) -> None:
        """Another takes its place, and adopts."""
        self._begin()
        for backend in self.backends.values():
            backend._told.clear()
        self.runner.adopt_or_reset_orphaned_tasks()

    def loops(self, count: int = 3) -> None:
        for _ in range(count):
            self.side.loop(self.runner)

    def sql(self, statement: str, **values: object) -> list:
        from airflow import settings

        with settings.engine.begin() as connection:
            result = connection.execute(text(statement), values)
            return list(result.mappings()) if result.returns_rows else []


@pytest.fixture
def rig(scheduler_side: SchedulerSide, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Rig]:
    def make(**options: object) -> Rig:
        for name, value in options.items():
            monkeypatch.setenv(f"AIRFLOW__{name.upper()}", str(value))
        return Rig(scheduler_side)

    return make


def test_a_full_backend_keeps_nobody_from_the_other(rig):
    """60 blocked pod tasks, four of them sent; Celery tasks of the same scheduler go at once."""
    rig = rig(
        hybrid_executor__kubernetes_parallelism=4, core__parallelism=16, scheduler__max_tis_per_query=64
    )
    rig.sql("update slot_pool set slots = 500")
    rig.side.serialize(celery=0, kubernetes=60)
    rig.side.trigger()
    rig.loops(12)
    assert len(rig.worlds[KUBERNETES].received) == 4
    assert list(rig.side.states().values()).count("queued") == 60
    assert rig.executor.slots_occupied == 4
    rig.side.serialize("light", celery=10)
    rig.side.trigger("light")
    rig.loops(4)
    assert len(rig.worlds[CELERY].received) == 10
    assert rig.executor.controller.inflight.sent() <= 16


def test_a_wait_with_a_known_reason_never_runs_out_of_time(rig):
    rig = rig(scheduler__task_queued_timeout=8)
    rig.worlds[KUBERNETES].away = True
    rig.side.serialize(celery=0, kubernetes=2)
    rig.side.trigger()
    rig.loops()
    long_ago = datetime.now(UTC) - timedelta(minutes=5)
    rig.sql("update task_instance set queued_dttm = :then", then=long_ago)
    rig.executor.controller._reconciler._began_s = float("-inf")
    for flight in rig.executor.controller.inflight:
        flight.refreshed_at = long_ago
    rig.executor.heartbeat()
    ages = rig.sql(
        "select extract(epoch from now() - queued_dttm) as age from task_instance where state = 'queued'"
    )
    assert len(ages) == 2
    assert all(row["age"] < 60 for row in ages)
    rig.runner._handle_tasks_stuck_in_queued()
    assert list(rig.side.states().values()).count("queued") == 2


def test_a_wait_without_a_known_reason_runs_out_of_time_as_airflow_wants(rig):
    rig = rig(scheduler__task_queued_timeout=8)
    rig.side.serialize(celery=1)
    rig.side.trigger()
    rig.loops()
    (flight,) = rig.executor.controller.inflight
    flight.reason = None
    rig.backends[CELERY].adopt = lambda ids, cluster: None
    for known in rig.executor.controller.inflight:
        known.looked_up = False
    rig.sql("update task_instance set queued_dttm = :then", then=datetime.now(UTC) - timedelta(minutes=5))
    rig.runner._handle_tasks_stuck_in_queued()
    assert set(rig.side.states().values()) == {"scheduled"}
    assert rig.executor.controller.inflight.of_key(flight.key) == []


def test_a_refused_pod_fails_that_attempt_alone_and_its_event_log_says_why(rig):
    rig = rig()
    rig.side.serialize(celery=0, kubernetes=2)
    rig.side.trigger()
    rig.loops()
    first, second = rig.worlds[KUBERNETES].received
    diagnosis = Diagnosis(
        reason=Reason.INVALID_POD, message="pod_override: spec.containers[0].image is empty"
    )
    rig.backends[KUBERNETES]._seen.append(Rejected(first, diagnosis))
    rig.loops(2)
    assert sorted(rig.side.states().values()) == ["failed", "queued"]
    assert rig.executor.controller.inflight.get(second.attempt_id)
    assert any("image is empty" in (row["extra"] or "") for row in rig.sql("select extra from log"))


def test_callbacks_go_to_celery_whatever_their_queue_says(rig):
    from airflow.executors.workloads.base import BundleInfo
    from airflow.executors.workloads.callback import CallbackDTO, CallbackFetchMethod, ExecuteCallback
    from airflow.utils.session import create_session

    rig = rig()
    callback = CallbackDTO(
        id=str(uuid4()),
        fetch_method=CallbackFetchMethod.IMPORT_PATH,
        data={"path": "some.callback", "kwargs": {}, "queue": "kubernetes"},
    )
    workload = ExecuteCallback(
        callback=callback,
        token="t",
        dag_rel_path="many.py",
        bundle_info=BundleInfo(name="dags-folder"),
        log_path="x",
    )
    with create_session(scoped=False) as session:
        session.execute(text("select 1"))
        rig.executor.queue_workload(workload, session)
    rig.executor.heartbeat()
    assert [i.attempt_id for i in rig.worlds[CELERY].received] == [callback.id]
    rig.worlds[CELERY].start(rig.worlds[CELERY].received[0])
    rig.worlds[CELERY].end(rig.worlds[CELERY].received[0], How.SUCCEEDED)
    rig.executor.heartbeat()
    (state,) = {str(state) for state, _ in rig.executor.get_event_buffer().values()}
    assert state == "success"


def test_the_sites_hook_may_send_a_retry_to_the_other_backend(rig, monkeypatch):
    from airflow import settings

    rig = rig()
    rig.side.serialize(celery=1)
    rig.side.trigger()
    rig.loops()
    (first,) = rig.worlds[CELERY].received

    def hook(task_instance, dag_run=None):
        if task_instance.try_number >= 2:
            task_instance.queue = "kubernetes"

    monkeypatch.setattr(settings, "task_instance_mutation_hook", hook)
    # A task that waits for its retry: where each try has a row of its own, this is the next one's.
    rig.sql(
        "update task_instance set state = 'up_for_retry', id = :id, max_tries = 3, end_date = :then,"
        " try_number = try_number + :more where state = 'queued'",
        id=str(uuid4()),
        more=int(A_ROW_PER_TRY),
        then=datetime.now(UTC) - timedelta(days=1),
    )
    rig.worlds[CELERY].end(first, How.SUCCEEDED)
    rig.loops(4)
    (second,) = rig.worlds[KUBERNETES].received
    assert second.attempt_id != first.attempt_id
    assert [row["queue"] for row in rig.sql("select queue from task_instance where state = 'queued'")] == [
        "kubernetes"
    ]


def test_without_a_good_routes_file_tasks_wait_with_that_reason_and_go_when_it_is_mended(rig, tmp_path):
    routes = tmp_path / "routes.yaml"
    routes.write_text("version: 1\nroutes: nonsense\n")
    rig = rig(hybrid_executor__routes_file=routes)
    rig.side.serialize(celery=0, kubernetes=2)
    rig.side.trigger()
    rig.loops()
    assert set(rig.side.states().values()) == {"queued"}
    assert rig.worlds[CELERY].received == rig.worlds[KUBERNETES].received == []
    routes.write_text("version: 1\nroutes:\n  - queue: kubernetes\n    backend: celery\n")
    rig.executor._routes_read_s = float("-inf")
    rig.loops()
    assert len(rig.worlds[CELERY].received) == 2


def test_a_heartbeat_without_a_change_asks_nobody_anything(rig):
    from airflow import settings
    from sqlalchemy import event

    # A comparison, which takes queries, may be due otherwise on a slow machine.
    rig = rig(hybrid_executor__reconcile_interval_s=3600)
    rig.side.serialize(celery=5, kubernetes=5)
    rig.side.trigger()
    rig.loops(4)
    statements: list[str] = []
    event.listen(settings.engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    for _ in range(5):
        rig.executor.heartbeat()
    assert statements == []


@pytest.mark.parametrize("on", [True, False])
def test_a_step_is_measured_only_where_metrics_are_on(rig, on):
    rig = rig()
    rig.side.serialize(celery=1)
    rig.side.trigger()
    rig.loops()
    rig.executor.settings = replace(rig.executor.settings, metrics_are_on=on)
    rig.executor._meter.drain()
    (sent,) = rig.worlds[CELERY].received
    rig.worlds[CELERY].start(sent)
    rig.executor.sync()
    assert bool(rig.executor._meter.drain().times) is on


EVICTED = Diagnosis(reason=Reason.EVICTED, message="the node was low on memory")


class Deaths:
    """One task on a queue whose route forgives evictions, and how its tries end."""

    def __init__(self, rig: Rig, retries: int) -> None:
        self.rig = rig
        rig.side.serialize(celery=0, kubernetes=1, retries=retries)
        rig.side.trigger()

    def die(self, diagnosis: Diagnosis, asked_as: str | None = None) -> str:
        """Run the next try until it dies so; the task's state after that."""
        self._until("queued")
        [flight] = self.rig.executor.controller.inflight
        self.rig.sql(
            "update task_instance set state = 'running', start_date = now(), end_date = null,"
            " hostname = 'pod-1', retry_reason = null, last_heartbeat_at = now()"
            " where external_executor_id = :a",
            a=flight.attempt.id,
        )
        self.rig.worlds[KUBERNETES].start(flight.id)
        self.rig.worlds[KUBERNETES].end(flight.id, How.FAILED, diagnosis, asked_as=asked_as)
        self.rig.loops(1)
        return self.state()

    def state(self) -> str:
        return self.rig.side.states()["pod", 0]

    def _until(self, state: str) -> None:
        deadline = time.monotonic() + 30
        while self.state() != state:
            assert time.monotonic() < deadline, self.state()
            self.rig.loops(1)


@pytest.fixture
def deaths(rig, tmp_path):
    def make(retries: int) -> Deaths:
        routes = tmp_path / "routes.yaml"
        rule = "{queue: kubernetes, backend: kubernetes, retry_on: [Evicted], retry_limit: 2}"
        routes.write_text(f"version: 1\nroutes:\n  - {rule}\n")
        settings = {"hybrid_executor__routes_file": routes, "hybrid_executor__backoff_first_s": 0.1}
        return Deaths(rig(**settings), retries)

    return make


@pytest.mark.parametrize("retries", [0, 2])
def test_a_death_that_the_route_forgives_leaves_a_task_all_its_retries_af45184(deaths, retries):
    deaths = deaths(retries)
    own = Diagnosis(reason=Reason.ERROR, message="exit code 1")
    assert deaths.die(EVICTED) == "up_for_retry"
    assert [deaths.die(own) for _ in range(retries)] == ["up_for_retry"] * retries
    assert deaths.die(own) == "failed"


def test_a_start_that_airflow_noted_and_never_answered_leaves_a_task_all_its_retries(deaths):
    deaths = deaths(1)
    unanswered = Diagnosis(reason=Reason.NOT_STARTED, message="ReadTimeout")
    own = Diagnosis(reason=Reason.ERROR, message="exit code 1")
    assert [deaths.die(unanswered, "pod-1") for _ in range(2)] == ["up_for_retry"] * 2
    assert [deaths.die(own), deaths.die(own)] == ["up_for_retry", "failed"]


def test_deaths_are_forgiven_up_to_the_routes_limit_and_both_tries_say_why(deaths):
    deaths = deaths(0)
    assert [deaths.die(EVICTED) for _ in range(3)] == ["up_for_retry", "up_for_retry", "failed"]
    sql = deaths.rig.sql
    history = sql(f"select try_number, state, retry_reason from {PAST_TRIES} order by try_number")  # noqa: S608
    assert [(row["try_number"], row["state"]) for row in history] == [(1, "failed"), (2, "failed")]
    assert all("Evicted: the node was low on memory" in row["retry_reason"] for row in history)
    rows = sql("select try_number, outcome, reason from hybrid_submission order by try_number")
    assert [(row["try_number"], row["outcome"]) for row in rows] == [
        (1, "restarted"),
        (2, "restarted"),
        (3, "failed"),
    ]
    notes = sql("select try_number, event, extra from log where event like 'hybrid executor: %' order by id")
    said = {(row["try_number"], row["event"].removeprefix("hybrid executor: ")) for row in notes}
    assert said == {
        (1, "runs again"),
        (2, "follows a try that did not count"),
        (2, "runs again"),
        (3, "follows a try that did not count"),
        (3, "failed"),
    }
    assert all("low on memory" in row["extra"] for row in notes)


def test_a_restart_that_its_scheduler_did_not_outlive_is_finished_by_the_next(deaths, monkeypatch):
    """Killed between transaction and event: the next finds a RESTARTING task and its dead pod.

    Where each try has a row of its own, the transaction is all that Airflow needs.
    """
    deaths = deaths(0)
    rig = deaths.rig

    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(rig.executor, "restarted", die)
        patched.setattr(rig.executor.controller._journal, "write", lambda *_: True)
        with pytest.raises(Killed):
            deaths.die(EVICTED)
    assert deaths.state() == ("up_for_retry" if A_ROW_PER_TRY else "restarting")
    rig.die()
    rig.follow()
    rig.loops(1)
    row = rig.sql("select outcome, reason from hybrid_submission order by queued_at")[0]
    # Nothing is left to do there for who comes after, who closes the row of a try that is over.
    expected = ("revoked", "Settled") if A_ROW_PER_TRY else ("restarted", "Evicted")
    assert (row["outcome"], row["reason"]) == expected
    assert deaths.die(Diagnosis(reason=Reason.ERROR)) == "failed", "it has no retries, and has used none"


def test_a_retry_keeps_its_route_by_rule_af41405(deaths):
    """Both tries go where the queue says, by the same rule, which the ledger has; none to the default."""
    deaths = deaths(1)
    own = Diagnosis(reason=Reason.ERROR, message="exit code 1")
    assert [deaths.die(own) for _ in range(2)] == ["up_for_retry", "failed"]
    rows = deaths.rig.sql(
        "select try_number, queue, backend, rule, retry_on from hybrid_submission order by try_number"
    )
    assert [row["try_number"] for row in rows] == [1, 2]
    (route,) = {(row["queue"], row["backend"], row["rule"], row["retry_on"]) for row in rows}
    assert route[:2] == ("kubernetes", "kubernetes")
    assert "rule 1" in route[2]
    assert deaths.rig.worlds[CELERY].received == []


def test_a_retry_after_the_routes_have_changed_goes_by_the_new_rule_af41405(deaths, tmp_path):
    """The rule decides each time anew: no try inherits what an older one had."""
    deaths = deaths(1)
    assert deaths.die(Diagnosis(reason=Reason.ERROR)) == "up_for_retry"
    (tmp_path / "routes.yaml").write_text("version: 1\nroutes:\n  - {queue: kubernetes, backend: celery}\n")
    deaths.rig.die()
    deaths.rig.follow()
    deaths._until("queued")
    deaths.rig.loops(1)
    assert len(deaths.rig.worlds[CELERY].received) == 1


@pytest.fixture
def eastward(rig, tmp_path):
    """A scheduler whose pods go to another cluster, and how its routes are changed."""
    kubeconfig = "{contexts: [{name: a}], current-context: a}"
    (tmp_path / "east.kubeconfig").write_text(kubeconfig)
    (tmp_path / "clusters.yaml").write_text(
        "version: 1\nclusters: {east: {kubeconfig: east.kubeconfig, namespace: airflow}}\n"
    )

    def route(rule: str) -> None:
        (tmp_path / "routes.yaml").write_text(f"version: 1\nroutes:\n  - {{queue: kubernetes, {rule}}}\n")

    route("backend: kubernetes, cluster: east")
    files = {f"hybrid_executor__{name}_file": tmp_path / f"{name}.yaml" for name in ("routes", "clusters")}
    return rig(**files), route


@pytest.mark.parametrize(
    "rule", ["backend: kubernetes", "backend: celery", "backend: kubernetes, cluster: west"]
)
def test_what_runs_in_a_cluster_is_adopted_there_whatever_routes_say_by_then(eastward, rule):
    rig, route = eastward
    rig.side.serialize(celery=0, kubernetes=1)
    rig.side.trigger()
    rig.loops()
    (sent,) = rig.east.received
    assert [row["cluster"] for row in rig.sql("select cluster from hybrid_submission")] == ["east"]
    rig.east.start(sent)
    rig.die()
    route(rule)
    rig.follow()
    rig.loops(2)
    assert rig.east.received == [sent]
    assert rig.worlds[KUBERNETES].received == rig.worlds[CELERY].received == []
    (row,) = rig.sql("select outcome, scheduler_job, started_at from hybrid_submission")
    assert row["outcome"] is None
    assert row["scheduler_job"] == str(rig.executor.job_id)
    assert row["started_at"]


def test_the_log_of_a_running_pod_is_read_in_its_cluster_whatever_routes_say_by_then(eastward, monkeypatch):
    rig, route = eastward
    rig.side.serialize(celery=0, kubernetes=1)
    rig.side.trigger()
    rig.loops()
    route("backend: celery")
    asked = []
    # As the API server does: constructed, never started.
    reader = HybridExecutor(backends=rig.backends)
    monkeypatch.setattr(rig.backends[KUBERNETES], "log", lambda *place: asked.append(place) or ["a line"])
    [ti] = [row for row in rig.side.rows() if row.queue == "kubernetes"]
    _, lines = reader.get_task_log(ti, 1)
    assert lines == ["a line"]
    assert asked == [(ti.external_executor_id, "east")]
