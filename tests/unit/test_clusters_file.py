"""The clusters file: what it says, what is wrong with it, and what its routes may name."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.backends.kubernetes.templates import Templates
from hybrid_executor.model.errors import ConfigError
from hybrid_executor.pods.build import ENV_EXECUTION_API
from hybrid_executor.routing import ClusterEntry, parse_clusters
from hybrid_executor.settings import Settings, load_routing
from hybrid_executor.settings.pods import pod_maker
from tests.fixtures.settings import Load
from tests.fixtures.submissions import pod_submission

SOURCE = "/etc/airflow/clusters.yaml"
FULL = """\
version: 1
clusters:
  eu:
    kubeconfig: eu.kubeconfig
    context: airflow
    namespace: airflow
    namespaces: [research, airflow]
    execution_api_server_url: https://airflow.example.org/execution/
    cluster_view: true
  us-2:
    kubeconfig: /secrets/us
    namespace: batch
"""


def refusal(text: str, source: str = "clusters.yaml") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_clusters(text, source)
    return list(caught.value.problems)


def test_every_key_arrives_and_what_is_left_out_is_left_to_the_settings() -> None:
    assert parse_clusters(FULL, SOURCE) == (
        ClusterEntry(
            name="eu",
            kubeconfig="/etc/airflow/eu.kubeconfig",
            context="airflow",
            namespace="airflow",
            namespaces=("airflow", "research"),
            execution_api_server_url="https://airflow.example.org/execution/",
            cluster_view=True,
        ),
        ClusterEntry(
            name="us-2",
            kubeconfig="/secrets/us",
            context=None,
            namespace="batch",
            namespaces=("batch",),
            execution_api_server_url=None,
            cluster_view=None,
        ),
    )


def test_json_says_the_same() -> None:
    assert parse_clusters(json.dumps(yaml.safe_load(FULL)), "/etc/airflow/c.json") == parse_clusters(
        FULL, SOURCE
    )


@pytest.mark.parametrize("namespaces", ["'*'", "['*']", "[a, '*']"])
def test_a_star_watches_every_namespace(namespaces: str) -> None:
    text = f"version: 1\nclusters: {{eu: {{kubeconfig: k, namespace: n, namespaces: {namespaces}}}}}"
    assert parse_clusters(text, SOURCE)[0].namespaces == (None,)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "clusters.yaml:1: version: 'version' is missing; add it (version: 1)"),
        ("version: 2\nclusters: {}", "clusters.yaml:1: version: must be 1"),
        (
            "version: 1\nclusters: {eu: {namespace: n}}",
            "clusters.yaml:2: cluster eu, kubeconfig: 'kubeconfig' is missing; add it",
        ),
        (
            "version: 1\nclusters:\n  eu:\n    kubeconfig: k\n    namespace: n\n    contxt: x",
            (
                "clusters.yaml:6: cluster eu, contxt: unknown key 'contxt'; remove it or correct its name"
                " (known: kubeconfig, context, namespace, namespaces, execution_api_server_url, cluster_view)"
            ),
        ),
        (
            "version: 1\nclusters: {default: {kubeconfig: k, namespace: n}}",
            (
                "clusters.yaml:2: cluster default: is the name of the cluster of [kubernetes_executor];"
                " choose another"
            ),
        ),
        (
            "version: 1\nclusters: {EU_1: {kubeconfig: k, namespace: n}}",
            (
                "clusters.yaml:2: cluster EU_1: must be named by at most 63 lower case letters, digits and"
                " dashes, with no dash at an end"
            ),
        ),
        (
            "version: 1\nclusters: {eu: {kubeconfig: k, namespace: n, cluster_view: 'no'}}",
            "clusters.yaml:2: cluster eu, cluster_view: must be true or false",
        ),
        (
            "version: 1\nclusters: {eu: {kubeconfig: k, namespace: n, execution_api_server_url: x}}",
            (
                "clusters.yaml:2: cluster eu, execution_api_server_url: must be an address that begins with"
                " http:// or https://"
            ),
        ),
        (
            "version: 1\nclusters:\n  eu: {kubeconfig: k, namespace: n}\n  eu: {kubeconfig: k, namespace: n}",
            "clusters.yaml:4: cluster eu: is given twice; keep one",
        ),
        ("version: 1\nclusters: [", "clusters.yaml:2: is not valid YAML:"),
    ],
)
def test_what_is_wrong_is_said_with_line_cluster_and_key(text: str, problem: str) -> None:
    assert any(line.startswith(problem) for line in refusal(text))


def test_all_problems_come_in_one_message() -> None:
    assert len(refusal("version: 3\nclusters: {-a: {namespace: n, x: 1}}")) == 4


@given(
    st.dictionaries(
        st.text(max_size=5) | st.sampled_from(["version", "clusters"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=4),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
            ),
        ),
        max_size=3,
    )
)
def test_no_file_raises_anything_else(data: object) -> None:
    with suppress(ConfigError):
        parse_clusters(json.dumps(data), "clusters.json")


# --- in the settings ------------------------------------------------------------------------


KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: admin
contexts:
- {name: admin, context: {cluster: c, user: u}}
- {name: airflow, context: {cluster: c, user: u}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clusters.yaml").write_text(FULL.replace("/secrets/us", "us.kubeconfig"))
    for name in ("eu", "us"):
        (tmp_path / f"{name}.kubeconfig").write_text(KUBECONFIG)
    return tmp_path


def read(load: Load, folder: Path, text: str = "") -> Settings:
    return load(text, HYBRID_EXECUTOR__CLUSTERS_FILE=str(folder / "clusters.yaml"))


def test_a_cluster_is_as_kubernetes_executor_says_but_for_where_it_is(load: Load, folder: Path) -> None:
    cfg = "[kubernetes_executor]\ndelete_worker_pods = False\nverify_ssl = False\nnamespace = home\n"
    settings = read(load, folder, cfg)
    assert settings.problems == ()
    eu, us = (one.kubernetes for one in settings.clusters)
    assert (eu.cluster, eu.in_cluster, eu.cluster_context) == ("eu", False, "airflow")
    assert eu.config_file == str(folder / "eu.kubeconfig")
    assert (eu.namespace, eu.watched, eu.cluster_view) == ("airflow", ("airflow", "research"), True)
    assert (eu.delete_worker_pods, eu.verify_ssl, eu.deployment) == (
        False,
        True,
        settings.kubernetes.deployment,
    )
    assert (us.namespace, us.watched, us.cluster_view) == ("batch", ("batch",), False)
    assert list(settings.every_cluster) == ["", "eu", "us-2"]
    assert settings.kubernetes.namespace == "home"


def test_a_context_that_is_not_there_is_named_and_its_cluster_stays(load: Load, folder: Path) -> None:
    (folder / "eu.kubeconfig").write_text(KUBECONFIG.replace("airflow", "other"))
    (folder / "us.kubeconfig").unlink()
    settings = read(load, folder)
    assert settings.problems == (
        (
            f"{folder}/clusters.yaml: cluster eu, context: 'airflow' is not in {folder}/eu.kubeconfig"
            " (it has: admin, other); tasks for it wait"
        ),
        (
            f"{folder}/clusters.yaml: cluster us-2, kubeconfig: {folder}/us.kubeconfig can't be read"
            " (No such file or directory); tasks for it wait"
        ),
    )
    assert len(settings.clusters) == 2


def test_what_is_no_kubeconfig_is_said_without_its_text(load: Load, folder: Path) -> None:
    (folder / "eu.kubeconfig").write_text("token: secret\n")
    [problem] = read(load, folder).problems
    assert "is no kubeconfig with contexts" in problem
    assert "secret" not in problem


@pytest.mark.parametrize("text", [None, b"\xff\xfe", b"version: 1\nclusters: {eu: {}}"])
def test_a_bad_file_stops_nothing(load: Load, folder: Path, text: bytes | None) -> None:
    (folder / "clusters.yaml").unlink()
    if text is not None:
        (folder / "clusters.yaml").write_bytes(text)
    settings = read(load, folder)
    assert settings.problems
    assert all(str(folder / "clusters.yaml") in problem for problem in settings.problems)
    assert settings.clusters == ()


def test_pods_are_made_for_the_cluster_of_their_route(load: Load, folder: Path) -> None:
    settings = read(load, folder, "[kubernetes_executor]\nnamespace = home\n")
    make = pod_maker(settings, Templates(), "7").make

    def place(cluster: str) -> tuple[str, str | None]:
        pod = make(pod_submission(cluster=cluster))
        env = {item["name"]: item.get("value") for item in pod["spec"]["containers"][0]["env"]}
        return pod["metadata"]["namespace"], env.get(ENV_EXECUTION_API)

    assert place("") == ("home", None)
    assert place("eu") == ("airflow", "https://airflow.example.org/execution/")
    assert place("us-2") == ("batch", None)


# --- what routes may name --------------------------------------------------------------------


def routed(load: Load, folder: Path, rule: str, cfg: str = "") -> Settings:
    (folder / "routes.yaml").write_text(
        f"version: 1\nroutes:\n  - {{queue: q, backend: kubernetes, {rule}}}\n"
    )
    return load(
        cfg,
        HYBRID_EXECUTOR__CLUSTERS_FILE=str(folder / "clusters.yaml"),
        HYBRID_EXECUTOR__ROUTES_FILE=str(folder / "routes.yaml"),
    )


MANY = "[kubernetes_executor]\nmulti_namespace_mode = True\n"


@pytest.mark.parametrize(
    ("rule", "cfg"),
    [
        ("cluster: eu", ""),
        ("cluster: eu, namespace: research", ""),
        ("cluster: default", ""),
        ("namespace: default", ""),
        ("namespace: anything", MANY),
        ("namespace: b", MANY + "multi_namespace_mode_namespace_list = a, b\n"),
    ],
)
def test_known_places_are_taken(load: Load, folder: Path, rule: str, cfg: str) -> None:
    assert load_routing(routed(load, folder, rule, cfg)).route("q").rule.startswith("routes.yaml rule 1")


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("cluster: ue", "cluster: 'ue' is no cluster of {folder}/clusters.yaml (it has: eu, us-2)"),
        (
            "cluster: eu, namespace: home",
            (
                "namespace: 'home' is not watched there; add it to namespaces of cluster eu in"
                " {folder}/clusters.yaml"
            ),
        ),
        (
            "namespace: research",
            (
                "namespace: 'research' is not watched there; add it to [kubernetes_executor]"
                " multi_namespace_mode_namespace_list, with multi_namespace_mode = True"
            ),
        ),
    ],
)
def test_a_place_that_is_not_there_is_refused_with_file_line_and_key(
    load: Load,
    folder: Path,
    rule: str,
    words: str,
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_routing(routed(load, folder, rule))
    assert caught.value.problems == (f"{folder}/routes.yaml:3: rule 1, {words.format(folder=folder)}",)


def test_without_a_clusters_file_a_cluster_is_refused_with_the_option(load: Load, tmp_path: Path) -> None:
    routes = tmp_path / "routes.yaml"
    routes.write_text("version: 1\nroutes: [{queue: q, backend: kubernetes, cluster: eu}]")
    with pytest.raises(ConfigError, match=r"\[hybrid_executor\] clusters_file, which is not set"):
        load_routing(load(HYBRID_EXECUTOR__ROUTES_FILE=str(routes)))
