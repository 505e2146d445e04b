"""The autoscaler's query as text: its queues, its quotes, and that the chart has the same."""

import pytest

from helm.generate_scaling import FILES
from hybrid_executor.routing import Pool, RoutingTable, kubernetes_rules, parse_routes
from hybrid_executor.scaling import demand_of, in_flight_query, trigger_query
from hybrid_executor.scaling.chart import chart_template
from hybrid_executor.scaling.query import DIALECTS, EVERY_ROW, Demand, Dialect

OURS = "hybrid_executor.HybridExecutor"


def demand(*queues: str, table: RoutingTable | None = None, concurrency: int = 16) -> Demand:
    pool = Pool(name="light", queues=queues, concurrency=concurrency)
    return demand_of(pool, table or RoutingTable(), (OURS,), OURS)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_charts_query_is_the_one_of_this_release(dialect: Dialect) -> None:
    written = (FILES / f"scaling-{dialect}.sql.tpl").read_text(encoding="utf-8")
    assert written == chart_template(dialect), "run python helm/generate_scaling.py"


def test_queues_whose_tasks_the_routes_send_to_pods_count_for_what_the_ledger_knows_alone() -> None:
    rules = ("{queue: gpu-small, backend: celery}", "{queue: 'gpu-*', backend: kubernetes}")
    text = "version: 1\nroutes:\n" + "".join(f"  - {rule}\n" for rule in rules)
    table = RoutingTable((*parse_routes(text, "r.yaml"), *kubernetes_rules(["kubernetes"], "x")))
    found = demand("default", "gpu-small", "gpu-large", "kubernetes", table=table)
    assert found.queues == ("default", "gpu-small", "gpu-large", "kubernetes")
    assert found.task_queues == ("default", "gpu-small")


def test_a_pool_for_callbacks_alone_is_asked_without_a_syntax_error() -> None:
    table = RoutingTable(kubernetes_rules(["kubernetes"], "x"))
    assert "ti.queue IN (NULL)" in trigger_query("postgresql", demand("kubernetes", table=table))


def test_quotes_and_backslashes_in_a_queue_end_no_literal() -> None:
    names = ("it's", "a\\")
    assert "s.queue IN ('it''s', 'a\\')" in trigger_query("postgresql", demand(*names))
    assert "IN ('it''s', 'a\\\\')" in trigger_query("mysql", demand(*names))


@pytest.mark.parametrize("dialect", DIALECTS)
def test_replicas_and_what_is_in_flight_are_of_one_text(dialect: Dialect) -> None:
    one = demand("default", concurrency=1)
    inside = (
        in_flight_query(dialect, one).removeprefix("SELECT (").removesuffix(f") AS in_flight\n{EVERY_ROW}")
    )
    assert trigger_query(dialect, one) == f"SELECT ceil(({inside}) / 1.0) AS workers\n{EVERY_ROW}"
