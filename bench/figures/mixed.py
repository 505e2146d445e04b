"""A run of a DAG with many tasks, a quarter of them in pods, from its start to its end on a whole stack."""

from bench.figure import Case, Figure, Reading, Size, Target, Turn
from bench.figures.podcreate import tuned_settings
from hybrid_executor.standalone.stack.environment import EXECUTOR

#: Of Airflow, for every side alike.
ROOM = {"AIRFLOW__CORE__PARALLELISM": "200"}
BOTH = "CeleryExecutor,KubernetesExecutor"

FIGURE = Figure(
    name="mixed",
    title="a DAG run, a quarter of its tasks in pods, 16 slots of one worker, whole stack",
    stocks={"stock": BOTH, "tuned": f"{BOTH}, batch 100, async_pod_creation"},
    cases=(
        Case("20 tasks", {"count": 20}, frozenset({Size.SMALL})),
        Case("200 tasks", {"count": 200}),
    ),
    readings=(Reading(name="wall", unit="s from start to end", target=Target(times=1)),),
    stock_does="has a task policy that maps the queue to the executor",
    ours_does=(
        "keeps a row of each attempt in the ledger. Tasks of workers are processes, pods have none: the node"
        " without processes ends them"
    ),
    rounds=2,
)


def _turns(count: int, executor: str, extra: dict[str, str]) -> Turn:
    from bench.stacks import PaperNodeStack, run_s, started

    stack = started(executor, kind=PaperNodeStack, extra=ROOM | extra)
    run_s(stack, "mixed_20")

    def turn() -> dict[str, float]:
        return {"wall": run_s(stack, f"mixed_{count}")}

    return turn


def stock(count: int) -> Turn:
    from bench.stacks import POLICY, STOCK_WORKER

    return _turns(count, BOTH, STOCK_WORKER | POLICY)


def tuned(count: int) -> Turn:
    from bench.stacks import POLICY, STOCK_WORKER

    return _turns(count, BOTH, STOCK_WORKER | POLICY | tuned_settings())


def ours(count: int) -> Turn:
    return _turns(count, EXECUTOR, {})
