"""The settings of log shippers in the how-to fit the labels of pods and the keys of lines.

What Fluent Bit and Promtail themselves say to them is not tried. That their expressions find the
attempts in the log of a worker that runs is, in ``tests/e2e/test_signals.py``.
"""

import re

from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.observation import How, Waiting
from hybrid_executor.model.reason import Reason
from hybrid_executor.naming import LABEL_ATTEMPT
from hybrid_executor.transitionlog import EVENT, fields_of
from tests.fixtures.logshipping import (
    fluent_bit,
    line_keys,
    loki_labels,
    loki_metadata,
    loki_queries,
    promtail,
    stages,
    worker_expressions,
)
from tests.fixtures.rig import Rig

ATTEMPT = "8cde6fc8-0d1e-4a54-9c55-4f6c4c0a7a10"


def test_fluent_bit_gives_a_pods_line_the_attempt_of_its_label() -> None:
    """The filters in turn: what lies nested is lifted under a prefix, and then copied."""
    lifts = [one for one in fluent_bit()["pipeline"]["filters"] if one["name"] == "nest"]
    prefix = ""
    for lift, nested in zip(lifts, ("kubernetes", "labels"), strict=True):
        assert lift["nested_under"] == prefix + nested
        prefix = lift["add_prefix"]
    [copies] = [one for one in fluent_bit()["pipeline"]["filters"] if one["name"] == "modify"]
    assert copies["condition"] == f"key_exists {prefix}{LABEL_ATTEMPT}"
    assert copies["copy"] == f"{prefix}{LABEL_ATTEMPT} attempt_id"


def test_fluent_bit_parses_a_workers_lines_by_a_parser_that_is_there() -> None:
    named = {parser["name"] for parser in fluent_bit()["parsers"]}
    assert {one["parser"] for one in fluent_bit()["pipeline"]["filters"] if one["name"] == "parser"} == named


def test_promtail_takes_the_attempt_from_the_pods_label() -> None:
    """In whose name every character that no label of Prometheus may have becomes an underscore."""
    [source] = [
        one["source_labels"]
        for one in promtail()["relabel_configs"]
        if one.get("target_label") == "attempt_id"
    ]
    assert source == ["__meta_kubernetes_pod_label_" + re.sub(r"\W", "_", LABEL_ATTEMPT)]


def test_promtail_takes_keys_that_lines_have() -> None:
    rig = Rig()
    flight = rig.queue(backend=BackendName.KUBERNETES)
    rig.steps(count=2)
    rig.sees(Waiting(flight.id, Reason.IMAGE_PULL, "no such image"))
    del rig.backends[BackendName.KUBERNETES].poll
    rig.worlds[BackendName.KUBERNETES].end(flight.id, How.FAILED)
    rig.steps()
    assert line_keys() <= {key for step in rig.heard.steps for key in fields_of(step, "1")}
    [selector] = [s["selector"] for name, s in stages(promtail()["pipeline_stages"]) if EVENT in str(s)]
    assert selector.endswith(f'|= "{EVENT}"')


def test_the_guides_queries_ask_loki_for_labels_and_metadata_that_it_gets() -> None:
    for query in loki_queries():
        selected = {
            name for labels in re.findall(r"{(.*?)}", query) for name in re.findall(r"(\w+)=", labels)
        }
        filtered = set(re.findall(r"\| (\w+)=", query))
        summed = set(re.findall(r"by \((\w+)\)", query))
        assert selected
        assert filtered
        assert (selected | summed) - loki_labels() == set(), query
        assert filtered - loki_metadata() == set(), query


def test_both_find_the_attempt_in_the_line_of_a_stock_worker() -> None:
    line = f"Task execute_workload[{ATTEMPT}] received"
    for expression in worker_expressions().values():
        found = re.search(expression, line)
        assert found
        assert found.groupdict() == {"attempt_id": ATTEMPT}
