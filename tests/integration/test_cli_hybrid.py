"""``airflow hybrid`` as a user runs it, on a real database, broker and Kubernetes API."""

import json
import re
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import yaml
from sqlalchemy import create_engine, text

from hybrid_executor.airflowtables import A_ROW_PER_TRY
from hybrid_executor.naming import LABEL_ATTEMPT, LABEL_DEPLOYMENT
from tests.fixtures.kube import Kube
from tests.fixtures.servers import SharedPostgres
from tests.fixtures.site import MakeSite, Site

DAG = """
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk import DAG, task
from kubernetes.client.models import V1Container, V1Pod, V1PodSpec

with DAG("mixed", schedule=None):

    @task
    def light(): ...

    @task(queue="kubernetes")
    def heavy(): ...

    @task(queue="gpu-1")
    def train(x): ...

    light() >> heavy()
    train.expand(x=[1, 2])

    KubernetesPodOperator(task_id="starts_a_pod", image="x", queue="kubernetes")
    KubernetesPodOperator(task_id="starts_one_too", image="x")

    @task(
        queue="kubernetes",
        executor_config={
            "pod_override": V1Pod(spec=V1PodSpec(containers=[V1Container(name="base", image="override:1")]))
        },
    )
    def overridden(): ...

    overridden()

with DAG("broken", schedule=None):

    @task(queue="broken")
    def broken(): ...

    broken()
"""

#: ``default`` moves to a pod from the second try; a run's conf may name a queue; one queue breaks the hook.
HOOK = """
def task_instance_mutation_hook(task_instance, dag_run=None):
    if task_instance.queue == "broken":
        raise RuntimeError("no such thing")
    if (task_instance.try_number or 0) >= 2 and task_instance.queue == "default":
        task_instance.queue = "kubernetes"
    if dag_run is not None and "queue" in (dag_run.conf or {}):
        task_instance.queue = dag_run.conf["queue"]


def pod_mutation_hook(pod):
    pod.metadata.annotations["hooked"] = "yes"
"""


@pytest.fixture(scope="module")
def site(make_site: MakeSite) -> Site:
    return make_site(DAG, HOOK)


# --- explain ------------------------------------------------------------------------------


def backends(rows: list[dict[str, str]]) -> dict[str, str]:
    return {row["task_id"]: row["backend"] for row in rows}


def test_explain_shows_every_task_with_the_rule_that_chose_it(site: Site) -> None:
    rows = site.rows(
        "hybrid", "explain", "mixed", AIRFLOW__HYBRID_EXECUTOR__KUBERNETES_QUEUES="kubernetes,gpu-*"
    )
    assert backends(rows) == {
        "heavy": "kubernetes",
        "light": "celery",
        "overridden": "kubernetes",
        "starts_a_pod": "kubernetes",
        "starts_one_too": "celery",
        "train": "kubernetes",
    }
    rules = {row["task_id"]: row["rule"] for row in rows}
    assert rules["train"] == "[hybrid_executor] kubernetes_queues: queue gpu-*"
    assert rules["light"].startswith("default")


def test_explain_shows_what_the_hook_raised(site: Site) -> None:
    [row] = site.rows("hybrid", "explain", "broken")
    assert "task_instance_mutation_hook raised RuntimeError: no such thing" in row["rule"]


def test_explain_shows_the_queue_that_a_retry_gets_from_the_hook(site: Site) -> None:
    [row] = site.rows("hybrid", "explain", "mixed", "light", "--try-number", "2")
    assert (row["queue"], row["backend"]) == ("kubernetes", "kubernetes")


def test_explain_shows_the_hook_the_run(site: Site) -> None:
    done = site.run("dags", "trigger", "mixed", "--run-id", "r1", "--conf", '{"queue": "kubernetes"}')
    assert done.returncode == 0, done.stdout + done.stderr
    [row] = site.rows("hybrid", "explain", "mixed", "light", "--run-id", "r1")
    assert row["queue"] == "kubernetes"


def test_explain_prints_a_table_that_keeps_square_brackets(site: Site) -> None:
    done = site.run("hybrid", "explain", "mixed", "heavy")
    assert "[hybrid_executor] kubernetes_queues: queue kubernetes" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nothing",), "DAG 'nothing' is not in the metadata database"),
        (("mixed", "nothing"), "DAG 'mixed' has no task 'nothing'"),
    ],
)
def test_explain_says_what_it_can_not_find(site: Site, arguments: tuple[str, ...], words: str) -> None:
    done = site.run("hybrid", "explain", *arguments)
    assert done.returncode == 1
    assert words in done.stderr


def test_explain_points_out_a_pod_that_only_starts_a_pod(site: Site) -> None:
    notes = {row["task_id"]: row["note"] for row in site.rows("hybrid", "explain", "mixed")}
    assert notes.pop("starts_a_pod").startswith("a pod that only starts a pod")
    assert set(notes.values()) == {""}


def test_explain_and_routes_show_the_cluster_and_the_pod_is_made_for_it(site: Site, tmp_path: Path) -> None:
    routes, clusters = tmp_path / "routes.yaml", tmp_path / "clusters.yaml"
    routes.write_text(
        "version: 1\nroutes:\n"
        "  - {queue: kubernetes, backend: kubernetes, cluster: eu, namespace: research}\n"
    )
    clusters.write_text(
        "version: 1\nclusters:\n  eu: {kubeconfig: none, namespace: etl, namespaces: research,"
        " execution_api_server_url: 'https://airflow.example.org/execution/'}\n"
    )
    files = {
        "AIRFLOW__HYBRID_EXECUTOR__ROUTES_FILE": str(routes),
        "AIRFLOW__HYBRID_EXECUTOR__CLUSTERS_FILE": str(clusters),
    }
    first = site.rows("hybrid", "routes", **files)[0]
    assert (first["cluster"], first["namespace"]) == ("eu", "research")
    rows = {row["task_id"]: row for row in site.rows("hybrid", "explain", "mixed", **files)}
    assert rows["overridden"]["cluster"] == "eu"
    done = site.run("hybrid", "explain", "mixed", "overridden", "--pod", "--output", "json", **files)
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)["manifest"]
    assert manifest["metadata"]["namespace"] == "research"
    assert manifest["metadata"]["labels"]["hybrid-executor/cluster"] == "eu"
    address = {"name": "AIRFLOW__CORE__EXECUTION_API_SERVER_URL"}
    address["value"] = "https://airflow.example.org/execution/"
    assert address in manifest["spec"]["containers"][0]["env"]
    wrong = "cluster eu, kubeconfig"
    assert wrong in site.run("hybrid", "routes", **files).stderr
    routes.write_text(routes.read_text().replace("cluster: eu", "cluster: us"))
    done = site.run("hybrid", "routes", **files)
    assert done.returncode == 1
    assert f"{routes}:3: rule 1, cluster: 'us' is no cluster of {clusters} (it has: eu)" in done.stderr


# --- explain --pod ------------------------------------------------------------------------


def test_explain_pod_shows_the_manifest_and_the_layer_of_each_field(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    rule = "{queue: kubernetes, backend: kubernetes, pod_template: t.yaml"
    rule += ", pod: {spec: {nodeSelector: {disk: ssd}}}}"
    path.write_text(f"version: 1\nroutes:\n  - {rule}\n")
    (tmp_path / "t.yaml").write_text("spec: {containers: [{name: base, image: 'template:1', tty: true}]}\n")
    environment = {
        "AIRFLOW__HYBRID_EXECUTOR__ROUTES_FILE": str(path),
        "AIRFLOW__KUBERNETES_EXECUTOR__NAMESPACE": "etl",
    }
    command = ("hybrid", "explain", "mixed", "overridden", "--pod")
    done = site.run(*command, "--output", "json", **environment)
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    manifest, layers = shown["manifest"], shown["layers"]
    base = manifest["spec"]["containers"][0]
    assert (base["image"], manifest["metadata"]["namespace"]) == ("override:1", "etl")
    assert manifest["metadata"]["labels"].keys() >= {LABEL_ATTEMPT, LABEL_DEPLOYMENT, "dag_id", "task_id"}
    assert layers["spec.containers[0].image"] == "pod_override"
    assert layers["spec.containers[0].tty"] == "template"
    assert layers["spec.nodeSelector.disk"] == "route"
    assert layers["spec.containers[0].args"] == layers["metadata.namespace"] == "executor"
    assert layers["metadata.annotations.hooked"] == "pod_mutation_hook"
    assert layers["metadata.name"] == layers[f"metadata.labels.{LABEL_DEPLOYMENT}"] == "seal"
    assert shown["sources"]["template"] == str(tmp_path / "t.yaml")
    text = site.run(*command, **environment).stdout
    assert yaml.safe_load(text) == manifest
    assert re.search(r"^ +image: override:1 +# pod_override$", text, flags=re.MULTILINE)
    assert yaml.safe_load(site.run(*command, "--output", "plain", **environment).stdout) == manifest


def test_explain_pod_shows_one_pod_of_a_mapped_task_and_no_token(site: Site) -> None:
    queues = {"AIRFLOW__HYBRID_EXECUTOR__KUBERNETES_QUEUES": "gpu-*"}
    done = site.run("hybrid", "explain", "mixed", "train", "--pod", "--try-number", "2", **queues)
    assert done.returncode == 0, done.stderr
    assert "# mapped: this is the pod of map_index 0" in done.stdout
    annotations = yaml.safe_load(done.stdout)["metadata"]["annotations"]
    assert (annotations["map_index"], annotations["try_number"]) == ("0", "2")
    assert "eyJ" not in done.stdout, "the beginning of a token"


@pytest.mark.parametrize(
    ("task", "config", "words"),
    [
        ((), {}, "name it after the DAG"),
        (("light",), {}, "mixed.light has no pod: it runs on a Celery worker (default"),
        (
            ("heavy",),
            {"AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE": "/none.yaml"},
            "mixed.heavy would fail as InvalidPod: pod template: /none.yaml: can't be read",
        ),
    ],
)
def test_explain_pod_says_why_there_is_none(
    site: Site, task: tuple[str, ...], config: dict[str, str], words: str
) -> None:
    done = site.run("hybrid", "explain", "mixed", *task, "--pod", **config)
    assert done.returncode == 1
    assert words in done.stderr


# --- routes -------------------------------------------------------------------------------


def test_routes_shows_the_table_in_order_with_its_sources(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text("version: 1\nroutes:\n  - {queue: gpu-*, backend: kubernetes, pod_template: gpu.yaml}\n")
    (tmp_path / "gpu.yaml").write_text("spec: {containers: [{name: base}]}\n")
    rows = site.rows("hybrid", "routes", AIRFLOW__HYBRID_EXECUTOR__ROUTES_FILE=str(path))
    assert [(row["queue"], row["backend"]) for row in rows] == [
        ("gpu-*", "kubernetes"),
        ("kubernetes", "kubernetes"),
        ("*", "celery"),
    ]
    assert rows[0]["rule"] == "routes.yaml rule 1: queue gpu-*"
    assert rows[0]["pod_template"] == str(tmp_path / "gpu.yaml")


def test_deaths_that_cost_no_retry_are_shown_with_what_their_image_needs(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    rule = "{queue: '*', backend: kubernetes, retry_on: [NodeLost, Evicted], retry_limit: 2}"
    path.write_text(f"version: 1\nroutes:\n  - {rule}\n")
    set_ = {"AIRFLOW__HYBRID_EXECUTOR__ROUTES_FILE": str(path)}
    assert site.rows("hybrid", "routes", **set_)[0]["retry_on"] == "Evicted, NodeLost (2 in a row)"
    notes = [row["note"] for row in site.rows("hybrid", "explain", "mixed", **set_)]
    assert notes
    assert all("Evicted, NodeLost (2 in a row); its image needs" in note for note in notes)
    report = site.run("hybrid", "doctor", **set_).stdout
    assert "hybrid_executor.worker.task" in report


def test_routes_lists_every_problem_of_the_file_and_fails(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text("version: 1\nroutes:\n  - {queue: a, backend: k8s}\n  - {queue: a, limits: b}\n")
    done = site.run("hybrid", "routes", AIRFLOW__HYBRID_EXECUTOR__ROUTES_FILE=str(path))
    assert done.returncode == 1
    assert f"{path}:3: rule 1, backend: must be 'celery' or 'kubernetes'" in done.stderr
    assert f"{path}:4: rule 2, limits: 'limits' is reserved for a later version" in done.stderr


def test_routes_shows_what_is_wrong_with_templates_and_defaults_and_fails(site: Site, tmp_path: Path) -> None:
    path, template = tmp_path / "routes.yaml", tmp_path / "gpu.yaml"
    rule = "{queue: gpu, backend: kubernetes, pod_template: gpu.yaml}"
    path.write_text(f"version: 1\nroutes:\n  - {rule}\n")
    template.write_text("spec:\n  containers:\n  - {name: main}\n")
    done = site.run("hybrid", "routes", AIRFLOW__HYBRID_EXECUTOR__ROUTES_FILE=str(path))
    assert done.returncode == 1
    assert "gpu.yaml" in done.stdout
    assert f"{template}:2: spec.containers: needs a container named `base`" in done.stderr
    path.write_text(
        "version: 1\nroutes:\n  - {queue: gpu, backend: kubernetes, pod: {spec: {priority: high}}}\n"
    )
    done = site.run("hybrid", "routes", AIRFLOW__HYBRID_EXECUTOR__ROUTES_FILE=str(path))
    assert done.returncode == 1
    assert f"{path}:3: rule 1, pod.spec.priority: must be a whole number" in done.stderr


def test_routes_notes_airflow_2s_setting(site: Site) -> None:
    done = site.run("hybrid", "routes", AIRFLOW__CELERY_KUBERNETES_EXECUTOR__KUBERNETES_QUEUE="pods")
    assert done.returncode == 0
    assert "is deprecated; add 'pods' to [hybrid_executor] kubernetes_queues" in done.stderr


# --- doctor -------------------------------------------------------------------------------

#: A beta of the next Airflow is outside the package's own pin, and the doctor is right to say so.
UNSOUND = {"versions"} if A_ROW_PER_TRY else set()


def check_sound(done: CompletedProcess[str]) -> None:
    """Nothing is wrong but what is on this Airflow."""
    wrong = [line for line in done.stdout.splitlines() if not line.startswith("ok ")]
    assert {line.partition(":")[0] for line in wrong} == {f"problem  {check}" for check in UNSOUND}, wrong
    assert done.returncode == len(UNSOUND), done.stdout + done.stderr


@pytest.fixture
def healthy(kube: Kube, valkey_url: str) -> dict[str, str]:
    """The environment of a site on which everything answers."""
    return {
        "AIRFLOW__CELERY__BROKER_URL": valkey_url,
        "AIRFLOW__KUBERNETES_EXECUTOR__IN_CLUSTER": "False",
        "AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE": kube.kubeconfig,
    }


def test_the_doctor_finds_a_healthy_site_well(site: Site, healthy: dict[str, str]) -> None:
    done = site.run("hybrid", "doctor", **healthy)
    check_sound(done)
    for check in ("broker", "result backend", "live ledger", "Kubernetes API", "metadata database", "ledger"):
        assert f"ok       {check}" in done.stdout


def test_the_doctor_says_what_images_must_have_where_pods_are_measured(
    site: Site, healthy: dict[str, str]
) -> None:
    done = site.run("hybrid", "doctor", AIRFLOW__HYBRID_EXECUTOR__MEASURE_PODS="True", **healthy)
    check_sound(done)
    assert "hybrid_executor.worker.task (measure_pods): it must be in their images" in done.stdout


def test_the_doctor_names_everything_that_is_wrong_and_no_secret(site: Site, tmp_path: Path) -> None:
    routes = tmp_path / "routes.yaml"
    routes.write_text("version: 1\nroutes:\n  - {queue: a, backend: kubernetes, pod_template: none.yaml}\n")
    template = tmp_path / "pod.yaml"
    template.write_text("kind: Deployment\n")
    done = site.run(
        "hybrid",
        "doctor",
        "--json",
        AIRFLOW__HYBRID_EXECUTOR__HELD_LIMIT="lots",
        AIRFLOW__API_AUTH__JWT_SECRET="",
        AIRFLOW__HYBRID_EXECUTOR__ROUTES_FILE=str(routes),
        AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE=str(template),
        AIRFLOW__KUBERNETES_EXECUTOR__IN_CLUSTER="False",
        AIRFLOW__KUBERNETES_EXECUTOR__CONFIG_FILE=str(tmp_path / "kubeconfig"),
        AIRFLOW__CELERY__BROKER_URL="redis://user:hunter2@127.0.0.1:1/0",
        AIRFLOW__CELERY__RESULT_BACKEND="redis://user:hunter2@127.0.0.1:1/1",
    )
    assert done.returncode == 1
    wrong = {found["check"] for found in json.loads(done.stdout) if not found["ok"]}
    assert wrong == {
        "settings",
        "token key",
        f"pod template {template}",
        f"pod template {tmp_path / 'none.yaml'}",
        "broker",
        "result backend",
        "live ledger",
        "Kubernetes API",
        *UNSOUND,
    }
    assert "hunter2" not in done.stdout + done.stderr


def test_the_doctor_reports_a_bad_routes_file_line_by_line(
    site: Site, healthy: dict[str, str], tmp_path: Path
) -> None:
    routes = tmp_path / "routes.yaml"
    routes.write_text("version: 3\nroutes: 4\n")
    done = site.run("hybrid", "doctor", AIRFLOW__HYBRID_EXECUTOR__ROUTES_FILE=str(routes), **healthy)
    assert done.returncode == 1
    assert f"problem  routes: {routes}:1: version: must be 1" in done.stdout
    assert f"problem  routes: {routes}:2: routes: must be a list" in done.stdout


def test_the_doctor_finds_task_instances_that_nobody_would_adopt(site: Site, healthy: dict[str, str]) -> None:
    done = site.run("dags", "trigger", "mixed", "--run-id", "left-behind")
    assert done.returncode == 0, done.stdout + done.stderr
    engine = create_engine(site.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
    change = text(
        "UPDATE task_instance SET state = :state, executor = :executor"
        " WHERE run_id = 'left-behind' AND task_id = 'heavy'"
    )
    with engine.begin() as connection:
        changed = connection.execute(change, {"state": "queued", "executor": "KubernetesExecutor"})
        assert changed.rowcount == 1
    try:
        done = site.run("hybrid", "doctor", **healthy)
        alias = "KubernetesExecutor:hybrid_executor.HybridExecutor"
        helped = site.run("hybrid", "doctor", AIRFLOW__CORE__EXECUTOR=alias, **healthy)
    finally:
        with engine.begin() as connection:
            connection.execute(change, {"state": None, "executor": None})
        engine.dispose()
    assert done.returncode == 1
    assert "1 unfinished name executor 'KubernetesExecutor'" in done.stdout
    check_sound(helped)


def test_the_doctor_says_how_to_migrate(
    site: Site, healthy: dict[str, str], postgres: SharedPostgres
) -> None:
    with postgres.fresh_database() as empty:
        done = site.run("hybrid", "doctor", AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=empty, **healthy)
    assert done.returncode == 1
    assert "problem  ledger: " in done.stdout
    assert "airflow db migrate" in done.stdout


# --- workers -------------------------------------------------------------------------------


def test_workers_says_that_a_broker_is_away_and_shows_what_the_ledger_has(site: Site) -> None:
    away = {"AIRFLOW__CELERY__BROKER_URL": "redis://127.0.0.1:1/0"}
    done = site.run("hybrid", "workers", **away)
    assert done.returncode == 1
    assert "the broker does not answer" in done.stderr


def test_a_worker_that_nobody_knows_can_not_be_drained(site: Site, valkey_url: str) -> None:
    done = site.run("hybrid", "workers", "drain", "celery@nobody", AIRFLOW__CELERY__BROKER_URL=valkey_url)
    assert done.returncode == 1
    assert "no worker answers that is named 'celery@nobody'" in done.stderr
