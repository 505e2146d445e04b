"""From a task's being queued to its process, on a whole stack that has nothing else to do, and on workers."""

from bench.figure import Case, Figure, Reading, Size, Target, Turn
from hybrid_executor.standalone.stack.environment import EXECUTOR

#: Of the executor itself, in milliseconds.
OWN = Target(at_most=20)
NO_WORSE = Target(times=1)

FIGURE = Figure(
    name="starting",
    title="queued to the task's process, Celery, on an idle stack",
    stocks={"stock": "CeleryExecutor"},
    cases=(Case("1 alone, 16 together", {}, frozenset(Size)),),
    readings=(
        Reading(name="p50_started_alone", unit="ms, 1 alone, median", target=NO_WORSE),
        Reading(name="p95_started_alone", unit="ms, 1 alone, 95th percentile", target=NO_WORSE),
        Reading(name="p50_sent_alone", unit="ms until its message is in Redis, 1 alone, median", target=OWN),
        Reading(name="p50_started_together", unit="ms, 16 together, median", target=NO_WORSE),
        Reading(name="p95_started_together", unit="ms, 16 together, 95th percentile", target=NO_WORSE),
        Reading(
            name="p50_sent_together", unit="ms until its message is in Redis, 16 together, median", target=OWN
        ),
    ),
    stock_does="records nothing",
    ours_does=(
        "writes the ledger's row before the message. The time is from `queued_dttm` to the start of the"
        " process, as Airflow notes both: up to the message it is executor and the rest of the scheduler's"
        " transaction, from there on Celery's worker and Airflow's supervisor"
    ),
    rounds=3,
)


def _turns(executor: str, extra: dict[str, str]) -> Turn:
    from bench.stacks import TaskTimes, messages, started, waiting

    stack = started(executor, extra=extra)
    sent = messages(stack)

    def waits(times: TaskTimes) -> dict[str, float]:
        return {
            "started": (times.started_s - times.queued_s) * 1000,
            "sent": (sent.at_s[times.attempt_id] - times.queued_s) * 1000,
        }

    return waiting(stack, "default", waits)


def stock() -> Turn:
    from bench.stacks import STOCK_WORKER

    return _turns("CeleryExecutor", STOCK_WORKER)


def ours() -> Turn:
    return _turns(EXECUTOR, {})
