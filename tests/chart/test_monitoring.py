"""Mapping, rules and dashboard fit what the executor emits; an alert fires when it should, and not before."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.sdk._shared.observability.metrics.base_stats_logger import NoStatsLogger
from airflow.sdk._shared.observability.metrics.statsd_logger import SafeStatsdLogger
from airflow.sdk.observability import stats

from helm.generate_monitoring import DASHBOARD, FILES, MAPPING, dashboard, mapping
from hybrid_executor.meter import METRICS, Kind, Meter, Metric
from hybrid_executor.metrics import Emitter
from hybrid_executor.model.mismatch import Mismatch
from hybrid_executor.model.reason import Reason
from hybrid_executor.model.record import Outcome
from tests.chart.values import LEAST
from tests.fixtures.helm import Helm
from tests.fixtures.monitoring import RULES, expressions, grouped, selectors
from tests.fixtures.promtool import promtool
from tests.unit.test_inflight import add, inflight

BY_NAME = {metric.prometheus: metric for metric in METRICS}


def test_mapping_and_dashboard_are_current() -> None:
    stale = [
        path.name
        for path, text in {MAPPING: mapping(), DASHBOARD: dashboard()}.items()
        if path.read_text() != text
    ]
    assert stale == [], "run: .venv/bin/python helm/generate_monitoring.py"


# --- names -----------------------------------------------------------------------------------


def metric_of(name: str) -> Metric | None:
    """The one of that name in Prometheus; a time's buckets, or in milliseconds, as OpenTelemetry has it."""
    of_time = name.removesuffix("_bucket").replace("_milliseconds", "_seconds")
    metric = BY_NAME.get(of_time)
    return metric if of_time == name or (metric and metric.kind is Kind.TIMER) else None


@pytest.mark.parametrize(("where", "query"), [*expressions()])
def test_every_metric_and_label_that_is_asked_for_exists(where: str, query: str) -> None:
    named = selectors(query)
    assert named
    labels: set[str] = set()
    for name, asked in named:
        metric = metric_of(name)
        assert metric, f"{where}: {name} is no metric of the executor"
        labels |= {*metric.labels, "le"}
        assert asked <= set(metric.labels), f"{where}: {name} has no {asked - set(metric.labels)}"
    assert grouped(query) <= labels, where


def test_every_value_that_a_rule_asks_for_exists() -> None:
    known = {
        "reason": {*Reason, "none"},
        "outcome": {*Outcome},
        "mismatch": {*Mismatch},
        "backend": {"celery", "kubernetes"},
        "phase": {"ready", "backoff", "sent", "accepted", "started"},
    }
    for where, query in expressions():
        for label, values in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"([^\"]*)\"", query):
            if label in known and "$" not in values:
                assert set(values.split("|")) <= known[label], where


# --- what the exporter makes of StatsD -------------------------------------------------------


@dataclass
class Packets:
    """What Airflow's StatsD logger asks of a client; keeps the names."""

    names: set[str] = field(default_factory=set)

    def incr(self, name: str, count: int, rate: float) -> None:
        self.names.add(name)

    def gauge(self, name: str, value: float, rate: float, delta: bool) -> None:
        self.names.add(name)

    def timing(self, name: str, took: Any) -> None:
        self.names.add(name)


@pytest.fixture
def packets() -> Iterator[Packets]:
    """What plain StatsD is sent when everything has happened once."""
    packets, meter, flights = Packets(), Meter(), inflight()
    stats.initialize(factory=lambda: SafeStatsdLogger(packets), export_legacy_names=False)
    add(flights, 1)
    for metric in METRICS:
        values = [f"some {tag}.1" for tag in metric.tags]
        match metric.kind:
            case Kind.COUNTER:
                meter.count(metric, *values)
            case Kind.TIMER:
                meter.time(metric, 1.0, *values)
            case Kind.GAUGE:
                meter.read(metric, lambda values=tuple(values): {values: 1.0})  # type: ignore[misc]
    Emitter(tagged=False, scheduler="7").emit(meter, flights, datetime.now(UTC))
    yield packets
    stats.initialize(factory=NoStatsLogger, export_legacy_names=False)


def test_the_mapping_names_every_packet_and_each_of_its_labels(packets: Packets) -> None:
    entries = yaml.safe_load(MAPPING.read_text())["mappings"]
    found: dict[str, dict[str, str]] = {}
    for name in packets.names:
        mapped = [(e, m) for e in entries if (m := matched(e["match"], f"airflow.{name}"))]
        assert len(mapped) == 1, name
        [(entry, values)] = mapped
        labels = entry.get("labels", {}).items()
        found[entry["name"]] = {label: values[int(place[1:]) - 1] for label, place in labels}
    assert found.keys() == BY_NAME.keys()
    for name, labels in found.items():
        metric = BY_NAME[name]
        assert list(labels) == list(metric.labels)
        assert labels.get("scheduler", "7") == "7"


def matched(pattern: str, name: str) -> tuple[str, ...] | None:
    """As statsd_exporter globs: a star is one part between dots."""
    regex = re.escape(pattern).replace(r"\*", r"([^.]*)")
    found = re.fullmatch(regex, name)
    return (*found.groups(), "") if found else None


# --- the alerts ------------------------------------------------------------------------------

P = "airflow_hybrid_executor_"
CELERY = 'backend="celery", queue="default", pool="light", scheduler="1"'
#: By alert: series (as promtool writes them, a value a minute) under which it fires, and some where not.
CASES: Mapping[str, tuple[Mapping[str, str], Mapping[str, str]]] = {
    "HybridExecutorNothingRuns": (
        {f'attempts{{{CELERY}, phase="accepted"}}': "3x60", f'attempts{{{CELERY}, phase="started"}}': "0x60"},
        {f'attempts{{{CELERY}, phase="accepted"}}': "3x60", f'attempts{{{CELERY}, phase="started"}}': "1x60"},
    ),
    "HybridExecutorWaitsLong": (
        {f"pending_age{{{CELERY}}}": "3000+60x60"},
        {f"pending_age{{{CELERY}}}": "600x60"},
    ),
    "HybridExecutorHeldBack": (
        {'waiting{backend="kubernetes", queue="gpu", reason="QuotaExceeded", scheduler="1"}': "2x60"},
        {'waiting{backend="kubernetes", queue="gpu", reason="PodPending", scheduler="1"}': "2x60"},
    ),
    "HybridExecutorInfrastructureDeaths": (
        {'ends_total{backend="kubernetes", queue="gpu", outcome="replaced", reason="Evicted"}': "0+1x60"},
        {'ends_total{backend="kubernetes", queue="gpu", outcome="failed", reason="Error"}': "0+1x60"},
    ),
    "HybridExecutorScaleInKillsTasks": (
        # Its first value is 1: it has never been 0.
        {'ends_total{backend="celery", queue="default", outcome="failed", reason="WorkerLost"}': "_x50 1x10"},
        {'ends_total{backend="celery", queue="default", outcome="failed", reason="WorkerLost"}': "1x60"},
    ),
    "HybridExecutorLedgerBehind": (
        {'ledger_lag{scheduler="1"}': "0x50 30 90 150x10"},
        {'ledger_lag{scheduler="1"}': "0x50 30 0x60"},
    ),
    "HybridExecutorLiveLedgerAway": (
        {'live_away{scheduler="1"}': "1x60"},
        {'live_away{scheduler="1"}': "0x55 1x5"},
    ),
    "HybridExecutorWatchSilent": (
        {'watch_age{cluster="default", namespace="airflow", scheduler="1"}': "0+60x60"},
        {'watch_age{cluster="default", namespace="airflow", scheduler="1"}': "59x60"},
    ),
    "HybridExecutorBackendAway": (
        {'breaker{backend="kubernetes", cluster="eu", scheduler="1"}': "1x60"},
        {'breaker{backend="kubernetes", cluster="eu", scheduler="1"}': "0x57 1x2"},
    ),
    "HybridExecutorQueueWithoutPool": (
        {
            'attempts{backend="celery", queue="x", pool="none", phase="accepted", scheduler="1"}': "1x60",
            'attempts{backend="celery", queue="x", pool="none", phase="started", scheduler="1"}': "1x60",
            'pool_max{pool="light", scheduler="1"}': "10x60",
        },
        # Without a file of pools nobody knows what serves a queue.
        {
            'attempts{backend="celery", queue="x", pool="none", phase="accepted", scheduler="1"}': "1x60",
            'attempts{backend="celery", queue="x", pool="none", phase="started", scheduler="1"}': "1x60",
        },
    ),
    "HybridExecutorPoolAtItsMaximum": (
        {
            'pool_demand{pool="light", scheduler="1"}': "6x60",
            'pool_demand{pool="light", scheduler="2"}': "6x60",
            'pool_max{pool="light", scheduler="1"}': "10x60",
            'pool_max{pool="light", scheduler="2"}': "10x60",
        },
        {
            'pool_demand{pool="light", scheduler="1"}': "6x60",
            'pool_max{pool="light", scheduler="1"}': "10x60",
        },
    ),
    "HybridExecutorWorkersIdle": (
        {'idle_workers{scheduler="1"}': "1x60"},
        {'idle_workers{scheduler="1"}': "0x60"},
    ),
    "HybridExecutorLosesWork": (
        {'mismatches_total{backend="celery", mismatch="MessageLost"}': "0+1x60"},
        {'mismatches_total{backend="celery", mismatch="TaskOver"}': "0+1x60"},
    ),
    "HybridExecutorFlowerBehind": (
        # Stopped: nobody says that all was told.
        {'flower_lag{scheduler="1"}': "3x50 60+60x10", 'flower_lag{scheduler="2"}': "3x60"},
        # An outage of the broker of two minutes.
        {'flower_lag{scheduler="1"}': "3x55 60 120 180 3x3"},
    ),
    "HybridExecutorApiRefuses": (
        {
            'api_calls_total{cluster="default", verb="create", resource="pods", code="429"}': "0+20x60",
            'api_calls_total{cluster="default", verb="create", resource="pods", code="201"}': "0+80x60",
        },
        {
            'api_calls_total{cluster="default", verb="create", resource="pods", code="429"}': "0+1x60",
            'api_calls_total{cluster="default", verb="create", resource="pods", code="201"}': "0+80x60",
        },
    ),
}
SILENT = "HybridExecutorSilent"


def test_every_rule_is_tried() -> None:
    rules = {rule["alert"] for rule in yaml.safe_load(RULES.read_text())["groups"][0]["rules"]}
    assert rules == CASES.keys() | {SILENT}
    page = (FILES.parents[1] / "docs" / "how-to" / "watch-it.md").read_text()
    assert [name for name in sorted(rules) if f"| `{name}` |" not in page] == []


def test_each_alert_fires_when_it_should_and_no_other_does(tmp_path: Path) -> None:
    promtool("check", "rules", RULES)
    tests = [case(name, series, [name]) for name, (series, _) in CASES.items()]
    tests += [case(f"not {name}", series, []) for name, (_, series) in CASES.items()]
    tests.append(case(SILENT, {}, [SILENT], alive=False))
    file = tmp_path / "tests.yaml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}, width=1000)
    )
    assert "SUCCESS" in promtool("test", "rules", file)


def case(name: str, series: Mapping[str, str], fire: list[str], *, alive: bool = True) -> dict[str, Any]:
    """After an hour exactly these alerts fire; a scheduler reports, unless it is not ``alive``."""
    given = {f"{P}{key}": values for key, values in series.items()}
    if alive and not any(key.startswith("ledger_lag") for key in series):
        given[f'{P}ledger_lag{{scheduler="1"}}'] = "0x60"
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": key, "values": values} for key, values in given.items()],
        "promql_expr_test": [
            {
                "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": "1h",
                "exp_samples": [{"labels": f'{{alertname="{one}"}}', "value": 1} for one in fire],
            }
        ],
    }


# --- the chart -------------------------------------------------------------------------------


def test_the_chart_carries_the_files_as_they_are(helm: Helm) -> None:
    on = {"enabled": True}
    metrics = {"statsd": on, "rules": on | {"labels": {"release": "p"}}, "dashboards": on}
    objects = helm.objects(values=LEAST | {"metrics": metrics})
    named = {(one["kind"], one["metadata"]["name"]): one for one in objects}
    rule = named["PrometheusRule", "airflow-rules"]
    assert rule["spec"] == yaml.safe_load(RULES.read_text())
    assert rule["metadata"]["labels"]["release"] == "p"
    board = named["ConfigMap", "airflow-dashboards"]
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert board["data"]["hybrid-executor.json"].strip() == DASHBOARD.read_text().strip()
    exporter = named["ConfigMap", "airflow-statsd"]
    assert yaml.safe_load(exporter["data"]["mapping.yaml"]) == yaml.safe_load(MAPPING.read_text())
