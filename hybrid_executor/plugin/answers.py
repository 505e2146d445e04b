"""What the page answers, as JSON and as what its templates show: flat values with the ledger's own names.

Pure: records in, models out. Texts from outside are cut, so that no answer grows
without bound; all of a message stands in ``airflow hybrid why``.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict

from hybrid_executor.contract import TaskView
from hybrid_executor.durations import in_words_finely
from hybrid_executor.ledger.history import Wait
from hybrid_executor.model.attempt import BackendName, TaskAddress
from hybrid_executor.model.record import Outcome, Stage, SubmissionRecord
from hybrid_executor.overview import Overview, QueueStanding, Spread
from hybrid_executor.plugin.questions import RunQuestion, WorkersQuestion
from hybrid_executor.poolload import PoolLoad
from hybrid_executor.runcount import Place, RunCount
from hybrid_executor.timeline import advice, headline, story, unknown_here

#: Characters of a message in a list, and where one task is told of.
LISTED, TOLD = 300, 2_000
#: Lines of one kind that an overview or a run has.
LINES_MAX = 30


class Answer(BaseModel):
    """Made once and only read."""

    model_config = ConfigDict(frozen=True)


class AttemptAnswer(Answer):
    """One submission of the ledger. Times are UTC."""

    attempt_id: str
    submission: int
    #: How far it is, or how it ended.
    state: str
    kind: str
    dag_id: str | None
    run_id: str | None
    task_id: str | None
    map_index: int | None
    try_number: int | None
    backend: str
    queue: str
    cluster: str
    #: The rule of the route that chose the backend.
    rule: str
    pod_template_file: str | None
    scheduler_job: str
    queued_at: datetime
    submitted_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    #: Since when what it waited for last was so; its words may be younger.
    waits_since: datetime | None
    #: The Celery worker, or ``pod on node``.
    where: str | None
    #: The Celery task id, or ``namespace/pod``.
    external_name: str | None
    #: Why it ended, or what it waits for.
    reason: str | None
    message: str | None
    exit_code: int | None
    #: How it stands in one line, and what to do about it.
    headline: str
    advice: str
    #: Paths in Airflow's UI: the task instance's log in this try, and this page's story of it.
    log: str | None
    details: str | None


class AttemptsAnswer(Answer):
    """A page of the ledger, newest first."""

    at: datetime
    attempts: list[AttemptAnswer]
    #: Where the next page begins; None on the last.
    following: str | None


class MomentAnswer(Answer):
    at: datetime
    event: str
    text: str
    #: Since the moment before, in words.
    after: str


class StoryAnswer(AttemptAnswer):
    """A submission with all that happened to it."""

    story: list[MomentAnswer]


class TaskInstanceAnswer(Answer):
    """A task instance as Airflow has it."""

    map_index: int
    state: str | None
    try_number: int
    max_tries: int
    queue: str
    pool: str
    executor: str | None
    hostname: str | None


class TaskAnswer(Answer):
    """What is known of one task of a run."""

    at: datetime
    dag_id: str
    run_id: str
    task_id: str
    instances: list[TaskInstanceAnswer]
    #: The oldest first; of a mapped task without an index the newest of each instance.
    attempts: list[StoryAnswer]
    #: Whether there are instances or attempts that this answer left out.
    is_cut: bool
    #: What to do about how it stands; empty where there is nothing to do.
    advice: str


class RunTaskAnswer(Answer):
    """One task of a run: how many of its instances are in which place."""

    task_id: str
    places: dict[str, int]


class RunAnswer(Answer):
    """Where the task instances of a run are: each in one place, so that the numbers are all of them."""

    at: datetime
    dag_id: str
    run_id: str
    total: int
    #: "not queued" (with Airflow), "queued", "submitted", "running", "ended", "not in the ledger".
    places: dict[str, int]
    #: The same by Airflow's own states.
    states: dict[str, int]
    #: Those first of which most have not ended.
    tasks: list[RunTaskAnswer]
    #: Tasks that were left out.
    left_out: int


class WorkerAnswer(Answer):
    """A Celery worker, in the words of ``airflow hybrid workers``."""

    worker: str
    pool: str
    #: Separated by commas.
    queues: str
    #: Tasks that it has of tasks that it can run at a time; a question mark for what nobody knows.
    load: str
    #: live, idle (takes nothing although messages wait), draining, leaving, silent, gone or unknown.
    state: str
    #: Its pod, if it has one that is known.
    pod: str


class WorkersAnswer(Answer):
    """Who runs tasks, by name; only for who may see the cluster's activity."""

    #: When the workers answered; None while their first answer is awaited.
    at: datetime | None
    #: How many there are in which state, no matter what was asked for.
    states: dict[str, int]
    workers: list[WorkerAnswer]
    #: Where the next page begins; None on the last.
    following: str | None
    #: Nodes with tasks in pods, the busiest first.
    nodes: list["PlaceAnswer"]
    #: Nodes that were left out.
    left_out: int
    #: Who did not answer, and why.
    problems: list[str]


class SpreadAnswer(Answer):
    count: int
    median_s: float
    p95_s: float


class QueueAnswer(Answer):
    """One queue of one backend."""

    backend: str
    queue: str
    queued: int
    submitted: int
    running: int
    #: By outcome, of the last hour.
    ended: dict[str, int]
    #: When what has waited longest was queued, and what it waits for.
    oldest_waiting: datetime | None
    oldest_reason: str | None
    waited: SpreadAnswer | None
    ran: SpreadAnswer | None
    #: How many waited at each of the overview's ``times``.
    depths: list[int]


class WaitAnswer(Answer):
    """So many wait on one queue for one reason."""

    count: int
    oldest: AttemptAnswer


class PlaceAnswer(Answer):
    backend: str
    #: A Celery worker, or a node.
    where: str
    running: int


class ReasonAnswer(Answer):
    backend: str
    reason: str
    count: int


class PoolAnswer(Answer):
    pool: str
    queues: list[str]
    in_flight: int
    concurrency: int
    #: Workers that an autoscaler gives it now.
    replicas: int
    min_replicas: int
    max_replicas: int


class ClusterAnswer(Answer):
    """What is of no DAG: only for who may see the cluster's activity."""

    schedulers: list[str]
    #: Open submissions that no live scheduler answers for.
    orphans: int
    pools: list[PoolAnswer]
    #: Why a part of it can't be told.
    problems: list[str]


class OverviewAnswer(Answer):
    """How things stand, of the DAGs that the user may read."""

    at: datetime
    since: datetime
    times: list[datetime]
    queues: list[QueueAnswer]
    waits: list[WaitAnswer]
    places: list[PlaceAnswer]
    reasons: list[ReasonAnswer]
    cluster: ClusterAnswer | None
    #: Lines that were left out of queues, waits and places.
    left_out: int


def attempt(record: SubmissionRecord, at: datetime, root: str, longest: int = LISTED) -> AttemptAnswer:
    """A line of a list; ``root`` is the path under which Airflow's UI is."""
    return AttemptAnswer(**_values(record, at, root, longest))


def told(record: SubmissionRecord, at: datetime, root: str) -> StoryAnswer:
    """All of one submission."""
    moments, before = [], None
    for moment in story(record):
        after = in_words_finely(moment.at - before) if before else ""
        moments.append(
            MomentAnswer(at=moment.at, event=moment.event, text=_cut(moment.text, TOLD), after=after)
        )
        before = moment.at
    return StoryAnswer(**_values(record, at, root, TOLD), story=moments)


def _values(record: SubmissionRecord, at: datetime, root: str, longest: int) -> dict[str, Any]:
    address, diagnosis = record.address, record.diagnosis
    task = {
        name: getattr(address, name, None)
        for name in ("dag_id", "run_id", "task_id", "map_index", "try_number")
    }
    same = {
        name: getattr(record, name)
        for name in AttemptAnswer.model_fields
        if name in SubmissionRecord.__dataclass_fields__
    }
    return {
        **same,
        **task,
        "attempt_id": record.id.attempt_id,
        "submission": record.id.number,
        "state": str(record.state),
        "rule": _cut(record.rule, LISTED),
        "where": record.where and _cut(record.where, LISTED),
        "reason": diagnosis and str(diagnosis.reason),
        "message": diagnosis and _cut(diagnosis.message, longest),
        "headline": _cut(headline(record, at), longest),
        "advice": advice(record),
        "log": address and log_path(root, address),
        "details": address and details_path(root, address),
    }


def log_path(root: str, address: TaskAddress) -> str:
    """Where Airflow's UI shows the log of a try."""
    names = [quote(name, safe="") for name in (address.dag_id, address.run_id, address.task_id)]
    mapped = f"/mapped/{address.map_index}" if address.map_index >= 0 else ""
    return f"{root}/dags/{names[0]}/runs/{names[1]}/tasks/{names[2]}{mapped}?try_number={address.try_number}"


def run_path(root: str, run: RunQuestion) -> str:
    """Where Airflow's UI shows a run."""
    return f"{root}/dags/{quote(run.dag_id, safe='')}/runs/{quote(run.run_id, safe='')}"


def details_path(root: str, address: TaskAddress) -> str:
    """Where this page tells of a task."""
    names = [quote(name, safe="") for name in (address.dag_id, address.run_id, address.task_id)]
    where = f"dag_id={names[0]}&run_id={names[1]}&task_id={names[2]}&map_index={address.map_index}"
    return f"{root}/hybrid/task?{where}"


def instance(view: TaskView) -> TaskInstanceAnswer:
    """What Airflow says of a task instance."""
    return TaskInstanceAnswer(**{name: getattr(view, name) for name in TaskInstanceAnswer.model_fields})


def what_to_do(records: list[SubmissionRecord], instances: list[TaskView]) -> str:
    """About the newest submission, or, where the ledger knows of none, about Airflow's own state."""
    if records:
        return advice(records[-1])
    return unknown_here(instances[0].state) if instances else ""


def run_answer(
    count: RunCount, at: datetime, dag_id: str, run_id: str, lines_max: int = LINES_MAX
) -> RunAnswer:
    """A run; every place is named, also where nothing is."""
    return RunAnswer(
        at=at,
        dag_id=dag_id,
        run_id=run_id,
        total=count.total,
        places={place: count.places.get(place, 0) for place in Place},
        states=dict(count.states),
        tasks=[
            RunTaskAnswer(task_id=task_id, places={place: found.get(place, 0) for place in Place})
            for task_id, found in count.tasks[:lines_max]
        ],
        left_out=max(0, len(count.tasks) - lines_max),
    )


def workers_answer(
    at: datetime,
    rows: Sequence[Mapping[str, str]],
    nodes: Sequence[tuple[str, int]],
    *,
    problems: Sequence[str],
    asked: WorkersQuestion,
    lines_max: int = LINES_MAX,
) -> WorkersAnswer:
    """A page of the rows, which are in the order of their names."""
    wanted = [
        row
        for row in rows
        if asked.pool in (None, row["pool"])
        and asked.state in (None, row["state"])
        and (asked.after is None or row["worker"] > asked.after)
    ]
    shown = wanted[: asked.limit]
    return WorkersAnswer(
        at=at,
        states=dict(Counter(row["state"] for row in rows)),
        workers=[WorkerAnswer(**{name: _cut(value, LISTED) for name, value in row.items()}) for row in shown],
        following=shown[-1]["worker"] if len(wanted) > len(shown) else None,
        nodes=[
            PlaceAnswer(backend=BackendName.KUBERNETES, where=_cut(name, LISTED), running=count)
            for name, count in nodes[:lines_max]
        ],
        left_out=max(0, len(nodes) - lines_max),
        problems=[_cut(problem, TOLD) for problem in problems],
    )


def waiting_for_workers() -> WorkersAnswer:
    """While their first answer is awaited."""
    return WorkersAnswer(at=None, states={}, workers=[], following=None, nodes=[], left_out=0, problems=[])


def overview_answer(
    seen: Overview, cluster: ClusterAnswer | None, root: str, lines_max: int = LINES_MAX
) -> OverviewAnswer:
    """The overview; of a thousand queues the busiest are shown."""
    queues = sorted(seen.queues, key=_weight, reverse=True)[:lines_max]
    left_out = sum(max(0, len(lines) - lines_max) for lines in (seen.queues, seen.waits, seen.places))
    return OverviewAnswer(
        at=seen.at,
        since=seen.since,
        times=list(seen.times),
        queues=[_queue(queue) for queue in sorted(queues, key=lambda one: one.queue)],
        waits=[_wait(wait, seen.at, root) for wait in seen.waits[:lines_max]],
        places=[
            PlaceAnswer(backend=backend, where=where, running=count)
            for backend, where, count in seen.places[:lines_max]
        ],
        reasons=[
            ReasonAnswer(backend=backend, reason=reason, count=count)
            for backend, reason, count in seen.reasons
        ],
        cluster=cluster,
        left_out=left_out,
    )


def pool_answers(loads: Iterable[PoolLoad]) -> list[PoolAnswer]:
    """How each pool of workers stands."""
    return [
        PoolAnswer(
            pool=load.pool.name,
            queues=list(load.pool.queues),
            in_flight=load.in_flight,
            concurrency=load.pool.concurrency,
            replicas=load.replicas,
            min_replicas=load.pool.min_replicas,
            max_replicas=load.pool.max_replicas,
        )
        for load in loads
    ]


def _queue(one: QueueStanding) -> QueueAnswer:
    return QueueAnswer(
        backend=one.queue.backend,
        queue=one.queue.name,
        queued=one.stages.get(Stage.QUEUED, 0),
        submitted=one.stages.get(Stage.SUBMITTED, 0),
        running=one.stages.get(Stage.RUNNING, 0),
        ended={str(outcome): one.ends.get(outcome, 0) for outcome in Outcome},
        oldest_waiting=one.oldest and one.oldest.queued_at,
        oldest_reason=str(one.oldest.waits_for) if one.oldest and one.oldest.waits_for else None,
        waited=_spread(one.waited),
        ran=_spread(one.ran),
        depths=list(one.depths),
    )


def _weight(one: QueueStanding) -> tuple[int, int]:
    return sum(one.stages.values()), sum(one.ends.values())


def _wait(wait: Wait, at: datetime, root: str) -> WaitAnswer:
    return WaitAnswer(count=wait.count, oldest=attempt(wait.oldest, at, root))


def _spread(spread: Spread | None) -> SpreadAnswer | None:
    if spread is None:
        return None
    return SpreadAnswer(count=spread.count, median_s=spread.median_s, p95_s=spread.p95_s)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
