"""The routing table, the globs behind it, and what is said about a bad routes file."""

import json
from fnmatch import fnmatchcase

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hybrid_executor.model.attempt import BackendName, Route
from hybrid_executor.model.errors import ConfigError
from hybrid_executor.model.reason import RESTARTABLE, Reason
from hybrid_executor.routing import RESERVED_KEYS, QueueRule, RoutingTable, kubernetes_rules, parse_routes
from hybrid_executor.routing.file import RETRY_LIMIT
from hybrid_executor.routing.globs import covers, pieces

#: Small on purpose, so that patterns and queues meet; with what globs treat specially, and both cases.
LETTERS = "abA-]!^\\"
QUEUES = st.text(alphabet=LETTERS + "*?[.\n", max_size=6)
CLASSES = st.builds(
    lambda negated, members: f"[{'!' if negated else ''}{members}]",
    st.booleans(),
    st.text(alphabet=LETTERS, min_size=1, max_size=4),
)
GLOBS = st.lists(
    st.one_of(st.sampled_from(["*", "?", "["]), st.sampled_from(LETTERS), CLASSES), max_size=5
).map("".join)
BACKENDS = st.sampled_from(BackendName)


@st.composite
def tables(draw: st.DrawFn) -> RoutingTable:
    chosen = draw(st.lists(st.tuples(GLOBS, BACKENDS), max_size=6))
    return RoutingTable(
        tuple(
            QueueRule(glob, Route(backend=backend, rule=f"rule {number}"))
            for number, (glob, backend) in enumerate(chosen)
        )
    )


def refusal(text: str, source: str = "routes.yaml") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_routes(text, source)
    return list(caught.value.problems)


def routes(*rules: str) -> str:
    return "version: 1\nroutes:\n" + "".join(f"  - {rule}\n" for rule in rules)


# --- the table ----------------------------------------------------------------------------


@given(tables(), QUEUES)
def test_every_queue_has_a_route_and_the_first_match_wins(table: RoutingTable, queue: str) -> None:
    for rule in table.rules:
        if fnmatchcase(queue, rule.pattern):
            expected = rule.route
            break
    else:
        expected = table.rows()[-1].route
    assert table.route(queue) == expected
    assert table.route(queue) is table.route(queue)


@given(st.text())
def test_an_empty_table_sends_everything_to_celery(queue: str) -> None:
    route = RoutingTable().route(queue)
    assert route.backend is BackendName.CELERY
    assert "default" in route.rule


def test_case_counts() -> None:
    table = RoutingTable(kubernetes_rules(["GPU-*"], "test"))
    assert table.route("GPU-1").backend is BackendName.KUBERNETES
    assert table.route("gpu-1").backend is BackendName.CELERY


def test_a_flood_of_queue_names_does_not_fill_the_memory() -> None:
    table = RoutingTable()
    for number in range(10_000):
        table.route(f"queue-{number}")
    assert len(table._seen) <= 4096


def test_the_rows_end_with_the_default() -> None:
    rows = RoutingTable(kubernetes_rules(["kubernetes", "gpu-*"], "[s] o")).rows()
    assert [(row.pattern, row.route.backend) for row in rows] == [
        ("kubernetes", "kubernetes"),
        ("gpu-*", "kubernetes"),
        ("*", "celery"),
    ]
    assert rows[1].route.rule == "[s] o: queue gpu-*"


# --- globs --------------------------------------------------------------------------------


@given(GLOBS)
def test_cutting_a_glob_loses_nothing(glob: str) -> None:
    assert "".join(pieces(glob)) == glob


@given(st.lists(GLOBS, max_size=3), GLOBS, QUEUES)
def test_what_is_called_covered_never_reaches_the_later_rule(
    earlier: list[str], later: str, queue: str
) -> None:
    assume(fnmatchcase(queue, later))
    if covers(earlier, later):
        assert any(fnmatchcase(queue, glob) for glob in earlier)


@given(GLOBS, GLOBS)
def test_what_is_called_uncovered_has_a_witness_in_short_queues_of_its_own(earlier: str, later: str) -> None:
    """A pattern covers itself, and everything covers it under a star."""
    assert covers([later], later)
    assert covers([earlier, "*"], later)
    assert covers([earlier, later], later)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (["gpu"], "gpu"),
        (["gpu-*"], "gpu-a100"),
        (["g*"], "gpu-*"),
        (["*"], "[x]?*"),
        (["[a-m]*", "[!a-m]*", ""], "*"),
        (["a?c"], "a[bd]c"),
        (["*-*"], "a-*-b"),
        (["**"], "*"),
        (["?*"], "*?"),
        (["[!a]"], "[b-z]"),
    ],
)
def test_a_covered_pattern_is_seen(earlier: list[str], later: str) -> None:
    assert covers(earlier, later)


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (["gpu"], "GPU"),
        (["gpu-*"], "gpu*"),
        (["?*"], "*"),
        (["[a-m]*"], "[a-n]*"),
        (["a*b"], "a*"),
        (["a?"], "a*"),
        ([], "a"),
        (["[!a]*", "a"], "a?"),
    ],
)
def test_a_pattern_with_something_left_is_not_covered(earlier: list[str], later: str) -> None:
    assert not covers(earlier, later)


def test_a_walk_that_grows_too_long_is_answered_with_not_covered() -> None:
    hard = ["*" + "?" * n + "[ab]" + "?" * 12 + "*c" for n in range(12)]
    assert not covers(hard, "*" + "[ab]" * 14 + "*")


# --- the file -----------------------------------------------------------------------------

GOOD = """\
version: 1
routes:
  - queue: [gpu-*, ml]
    backend: kubernetes
    pod_template: templates/gpu.yaml
    pod:
      spec: {priorityClassName: high}
  - queue: kubernetes-light
    backend: celery
"""


def test_a_rule_names_the_file_the_number_and_the_pattern() -> None:
    rules = parse_routes(GOOD, "/etc/airflow/routes.yaml")
    table = RoutingTable(rules)
    route = table.route("gpu-a100")
    assert route.rule == "routes.yaml rule 1: queue gpu-*"
    assert table.route("kubernetes-light").rule == "routes.yaml rule 2: queue kubernetes-light"
    assert route.backend is BackendName.KUBERNETES
    assert route.pod_template_file == "/etc/airflow/templates/gpu.yaml"
    assert route.pod_defaults == {"spec": {"priorityClassName": "high"}}
    assert table.route("ml").backend is BackendName.KUBERNETES


def test_an_absolute_template_stays_where_it_is() -> None:
    text = routes("{queue: a, backend: kubernetes, pod_template: /srv/a.yaml}")
    assert parse_routes(text, "/etc/routes.yaml")[0].route.pod_template_file == "/srv/a.yaml"


def test_yaml_and_json_mean_the_same() -> None:
    data = {
        "version": 1,
        "routes": [{"queue": "gpu-*", "backend": "kubernetes", "pod": {"metadata": {"labels": {"a": "b"}}}}],
    }
    from_yaml = parse_routes(json.dumps(data), "routes.yaml")
    from_json = parse_routes(json.dumps(data, indent="\t"), "routes.json")
    assert [rule.route.pod_defaults for rule in from_yaml] == [rule.route.pod_defaults for rule in from_json]
    assert from_json[0].pattern == "gpu-*"


def test_no_routes_is_a_valid_file() -> None:
    assert parse_routes("version: 1\nroutes: []\n", "routes.yaml") == ()


def test_every_problem_is_in_one_message_with_its_line() -> None:
    text = """\
version: 2
colour: blue
routes:
  - queue: a
    backend: k8s
  - backend: celery
    queue: [7, ""]
    pod: {spec: {}}
  - queue: a
    backend: celery
    limits: {cpu: 1}
    podtemplate: x
  - nonsense
"""
    assert refusal(text) == [
        "routes.yaml:1: version: must be 1",
        "routes.yaml:2: colour: unknown key 'colour'; remove it or correct its name (known: version, routes)",
        "routes.yaml:5: rule 1, backend: must be 'celery' or 'kubernetes'",
        "routes.yaml:7: rule 2, queue[0]: must be text; put it in quotes",
        "routes.yaml:7: rule 2, queue[1]: must not be empty; name a queue, or * for every queue",
        "routes.yaml:8: rule 2, pod: is for backend kubernetes; remove it or change the backend",
        "routes.yaml:9: rule 3, queue: can never match: rule 1 ('a') takes 'a' first; move it up or remove it",  # noqa: E501
        "routes.yaml:11: rule 3, limits: 'limits' is reserved for a later version; remove it",
        (
            "routes.yaml:12: rule 3, podtemplate: unknown key 'podtemplate'; remove it or correct its name"
            " (known: queue, backend, cluster, namespace, execution_api_server_url, pod_template, pod,"
            " retry_on, retry_limit, fatal_wait_s)"
        ),
        "routes.yaml:13: rule 4: must be a mapping of keys to values",
    ]


def test_what_a_death_costs_and_how_long_a_fatal_wait_lasts_is_the_routes() -> None:
    text = routes(
        "{queue: spot, backend: kubernetes, retry_on: [Evicted, NodeLost], retry_limit: 7, fatal_wait_s: 9}",
        "{queue: big, backend: kubernetes, retry_on: OOMKilled}",
        "{queue: plain, backend: kubernetes}",
        "{queue: light, backend: celery, retry_on: WorkerLost, retry_limit: 9}",
    )
    table = RoutingTable(parse_routes(text, "routes.yaml"))
    spot, big, plain = (table.route(queue) for queue in ("spot", "big", "plain"))
    assert (spot.retry_on, spot.retry_limit) == ({Reason.EVICTED, Reason.NODE_LOST}, 7)
    assert (spot.fatal_wait_s, big.fatal_wait_s) == (9, None)
    assert (big.retry_on, big.retry_limit) == ({Reason.OOM_KILLED}, RETRY_LIMIT)
    assert (plain.retry_on, plain.retry_limit) == (frozenset(), 0)
    light = table.route("light")
    assert (light.retry_on, light.retry_limit) == ({Reason.WORKER_LOST}, 9)


def test_every_death_that_can_be_forgiven_is_named_in_the_refusal_of_another() -> None:
    [problem] = refusal(routes("{queue: a, backend: kubernetes, retry_on: [Evicted, Error]}"))
    assert problem.startswith("routes.yaml:3: rule 1, retry_on[1]: must be ")
    assert {name for name in RESTARTABLE if f"'{name}'" in problem} == RESTARTABLE


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (
            "backend: celery, retry_on: Evicted",
            "retry_on: Evicted is no end on this backend; it has WorkerLost",
        ),
        ("backend: kubernetes, retry_on: [Evicted, WorkerLost]", "retry_on: WorkerLost is no end on this"),
        ("backend: celery, fatal_wait_s: 5", "fatal_wait_s: is for backend kubernetes"),
        ("backend: kubernetes, retry_limit: 5", "retry_limit: has no effect without retry_on"),
        ("backend: kubernetes, retry_on: Evicted, retry_limit: 0", "retry_limit: "),
        ("backend: kubernetes, retry_on: Evicted, retry_limit: true", "retry_limit: "),
        ("backend: kubernetes, retry_on: []", "retry_on: must not be empty"),
        ("backend: kubernetes, fatal_wait_s: -1", "fatal_wait_s: "),
        ("backend: kubernetes, fatal_wait_s: .inf", "fatal_wait_s: "),
    ],
)
def test_what_a_death_costs_is_checked(rule: str, words: str) -> None:
    [problem] = refusal(routes(f"{{queue: a, {rule}}}"))
    assert words in problem


def test_a_rule_names_a_place() -> None:
    text = routes(
        "{queue: eu, backend: kubernetes, cluster: eu, namespace: research,"
        " execution_api_server_url: 'https://airflow.example.org/execution/'}",
        "{queue: home, backend: kubernetes, cluster: default}",
    )
    away, home = (rule.route for rule in parse_routes(text, "routes.yaml"))
    assert (away.cluster, away.namespace) == ("eu", "research")
    assert away.execution_api_server_url == "https://airflow.example.org/execution/"
    assert away.destination == (BackendName.KUBERNETES, "eu")
    assert (home.cluster, home.namespace, home.execution_api_server_url) == ("", None, None)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("backend: celery, cluster: eu", "cluster: is for backend kubernetes"),
        ("backend: celery, namespace: x", "namespace: is for backend kubernetes"),
        ("backend: kubernetes, cluster: ''", "cluster: must not be empty"),
        ("backend: kubernetes, cluster: 7", "cluster: must be text"),
        (
            "backend: kubernetes, execution_api_server_url: airflow:8080",
            "execution_api_server_url: must be an address that begins with http:// or https://",
        ),
    ],
)
def test_a_place_is_checked(rule: str, words: str) -> None:
    [problem] = refusal(routes(f"{{queue: a, {rule}}}"))
    assert words in problem


@pytest.mark.parametrize("key", RESERVED_KEYS)
def test_a_key_for_later_is_refused_by_name(key: str) -> None:
    [problem] = refusal(routes(f"{{queue: a, backend: kubernetes, {key}: x}}"))
    assert problem == f"routes.yaml:3: rule 1, {key}: '{key}' is reserved for a later version; remove it"


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        (
            ("{queue: '*', backend: celery}", "{queue: a, backend: kubernetes}"),
            "rule 1 ('*') takes 'a' first",
        ),
        (
            ("{queue: [a, b], backend: celery}", "{queue: [b, a], backend: kubernetes}"),
            "takes 'b', 'a' first",
        ),
        (("{queue: g*, backend: celery}", "{queue: gpu-*, backend: kubernetes}"), "rule 1 ('g*')"),
        (
            (
                "{queue: '[a-m]*', backend: celery}",
                "{queue: '[n-z]*', backend: celery}",
                "{queue: '[a-z]x', backend: celery}",
            ),
            "the rules before it together take '[a-z]x'",
        ),
        (("{queue: '[z-a]', backend: celery}",), "matches no queue at all"),
    ],
)
def test_a_rule_that_can_never_match_is_an_error(rules: tuple[str, ...], words: str) -> None:
    [problem] = refusal(routes(*rules))
    assert f"rule {len(rules)}, queue: can never match: " in problem
    assert words in problem


def test_a_rule_of_which_something_is_left_is_fine() -> None:
    text = routes("{queue: gpu-a, backend: celery}", "{queue: [gpu-a, gpu-*], backend: kubernetes}")
    assert len(parse_routes(text, "routes.yaml")) == 3


def test_a_key_given_twice_is_an_error() -> None:
    text = "version: 1\nroutes:\n  - queue: a\n    queue: b\n    backend: celery\n"
    assert refusal(text) == ["routes.yaml:4: rule 1, queue: is given twice; keep one"]
    assert refusal('{"version": 1,\n "version": 1, "routes": []}', "routes.json") == [
        "routes.json:2: version: is given twice; keep one"
    ]


def test_a_date_in_a_pod_is_an_error_because_json_knows_none() -> None:
    text = routes("{queue: a, backend: kubernetes, pod: {metadata: {labels: {since: 2026-01-01}}}}")
    [problem] = refusal(text)
    assert problem.startswith("routes.yaml:3: rule 1, pod.metadata.labels.since: ")
    assert "put dates and times in quotes" in problem


def test_a_pod_of_another_kind_is_an_error() -> None:
    [problem] = refusal(routes("{queue: a, backend: kubernetes, pod: {kind: Job}}"))
    assert problem == "routes.yaml:3: rule 1, pod.kind: must be 'Pod'"


@pytest.mark.parametrize(
    ("text", "source", "start"),
    [
        ("version: 1\nroutes: [", "r.yaml", "r.yaml:2: is not valid YAML: "),
        ("version: 1\n\troutes: []", "r.yaml", "r.yaml:2: is not valid YAML: "),
        ('{"version": 1,\n "routes": [,]}', "r.json", "r.json:2: is not valid JSON: "),
        ("", "r.yaml", "r.yaml:1: routes: 'routes' is missing; add it"),
        ("- a", "r.yaml", "r.yaml:1: must be a mapping of keys to values"),
        ("[" * 5000, "r.yaml", "r.yaml:1: is nested too deeply"),
        ("[" * 100_000, "r.json", "r.json:1: is n"),
        ("a: !!python/object:os.system {}", "r.yaml", "r.yaml:1: is not valid YAML: "),
        ("version: 1\x00", "r.yaml", "r.yaml:1: is not valid YAML: "),
    ],
)
def test_a_file_that_is_no_routes_file_says_so(text: str, source: str, start: str) -> None:
    assert refusal(text, source)[0].startswith(start)


@given(st.text())
def test_any_text_gives_rules_or_one_config_error(text: str) -> None:
    for source in ("r.yaml", "r.json"):
        try:
            parse_routes(text, source)
        except ConfigError as error:
            problems = error.problems
        else:
            problems = ()
        assert all(line.startswith(f"{source}:") for line in problems)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NEAR_RULES = st.dictionaries(
    st.sampled_from(["queue", "backend", "pod", "pod_template", "limits"]),
    st.sampled_from(["a", "*", "celery", "kubernetes"]) | JSON_VALUES,
)


@given(st.lists(NEAR_RULES | JSON_VALUES, max_size=4) | JSON_VALUES)
def test_any_data_gives_rules_or_one_config_error(data: object) -> None:
    text = json.dumps({"version": 1, "routes": data})
    try:
        parse_routes(text, "r.json")
    except ConfigError as error:
        problems = error.problems
    else:
        problems = ()
    assert all(line.startswith("r.json:1: ") for line in problems)
