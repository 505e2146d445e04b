"""From a task's being queued to its pod, on a whole stack that has nothing else to do."""

from bench.figure import Case, Figure, Reading, Size, Target, Turn
from bench.figures.podcreate import tuned_settings
from hybrid_executor.standalone.stack.environment import EXECUTOR

#: Milliseconds.
OWN = Target(at_most=100)

FIGURE = Figure(
    name="podqueued",
    title="queued to the pod's creation, on an idle stack",
    stocks={"stock": "KubernetesExecutor", "tuned": "KubernetesExecutor, batch 100, async_pod_creation"},
    cases=(Case("1 alone, 16 together", {}, frozenset(Size)),),
    readings=(
        Reading(name="p50_made_alone", unit="ms, 1 alone, median", target=OWN),
        Reading(name="p95_made_alone", unit="ms, 1 alone, 95th percentile", target=OWN),
        Reading(name="p50_made_together", unit="ms, 16 together, median", target=OWN),
        Reading(name="p95_made_together", unit="ms, 16 together, 95th percentile", target=OWN),
    ),
    stock_does="makes one pod in a heartbeat (defaults); shows the token in the pod's arguments",
    ours_does=(
        "writes the ledger's row before the pod, and makes a Secret for its token after it. The time is from"
        " `queued_dttm` until a watch tells of the pod: the rest of the scheduler's transaction and the API's"
        " own part are in it"
    ),
    rounds=3,
)


def _turns(executor: str, extra: dict[str, str] | None = None) -> Turn:
    from bench.stacks import PaperStack, TaskTimes, pods, started, waiting

    stack = started(executor, kind=PaperStack, extra=extra)
    made = pods(stack)

    def waits(times: TaskTimes) -> dict[str, float]:
        return {"made": (made.at_s[times.run_id, times.task_id] - times.queued_s) * 1000}

    return waiting(stack, "kubernetes", waits)


def stock() -> Turn:
    return _turns("KubernetesExecutor")


def tuned() -> Turn:
    return _turns("KubernetesExecutor", tuned_settings())


def ours() -> Turn:
    return _turns(EXECUTOR)
