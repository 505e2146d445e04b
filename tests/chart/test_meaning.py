"""What values do, and what is refused before anything is installed."""

import base64
import json
import re
from typing import Any

import pytest
import yaml

from hybrid_executor.routing import parse_pools, parse_routes
from hybrid_executor.routing.clusters import parse_clusters
from tests.chart.values import LEAST, one, pod_specs
from tests.fixtures.helm import CHART, Helm, HelmFailed, Manifest

PRODUCTION = CHART / "ci" / "production-values.yaml"
NAMESPACES = CHART / "ci" / "namespaces-values.yaml"


def least(**more: Any) -> dict[str, Any]:
    """The least values, with these."""
    return LEAST | more


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"poolz": {}}, "additional properties 'poolz' not allowed"),
        (
            {"pools": {"light": {"queues": ["a"], "concurency": 3}}},
            "additional properties 'concurency' not allowed",
        ),
        ({"pools": {"light": {}}}, "missing property 'queues'"),
        ({"pools": {"Light": {"queues": ["a"]}}}, "'Light' does not match pattern"),
        ({"pools": {"light": {"queues": ["a,b"]}}}, "'a,b' does not match pattern"),
        ({"scaling": {"by": "cron"}}, "value must be one of 'keda', 'hpa', 'none'"),
        ({"airflow": {"executor": "CeleryExecutor"}}, "does not match pattern"),
        ({"airflow": {"config": {"core": {"parallelism": [1]}}}}, "got array, want"),
        ({"scheduler": {"pod": {"nodeselector": {}}}}, "additional properties 'nodeselector' not allowed"),
        ({"database": {"secret": {"name": ""}}}, "database.secret.name: name a Secret with the URL"),
        ({"broker": {"secret": {"name": ""}}}, "broker.secret.name: name a Secret with the URL"),
        (
            {"pools": {"a": {"queues": ["x", "y"]}, "b": {"queues": ["y"]}}},
            'pools.b.queues: "y" is served by pool a too; a queue belongs to exactly one pool',
        ),
        (
            {"pools": {"a": {"queues": ["x"], "minReplicas": 5, "maxReplicas": 2}}},
            "pools.a: minReplicas is 5 and maxReplicas 2; it must not be more",
        ),
        (
            {"pools": {"a": {"queues": ["x"], "gracePeriodSeconds": 30, "drainMarginSeconds": 30}}},
            "pools.a: drainMarginSeconds is 30 and gracePeriodSeconds 30; it must be less",
        ),
        (
            {"pools": {"a": {"queues": ["x"], "gracePeriodSeconds": 90000}}},
            "pools.a: a worker drains for 89970 seconds, and what runs longer than 86400 is delivered",
        ),
        (
            {
                "workers": {"longestTaskSeconds": 7200},
                "airflow": {"config": {"hybrid_executor": {"longest_task_s": 3600}}},
            },
            "workers.longestTaskSeconds is 7200 and airflow.config.hybrid_executor.longest_task_s 3600;",
        ),
        ({"dags": {"source": "volume"}}, "dags.claim: name the claim"),
        ({"dags": {"source": "git"}}, "dags.git.repository: name the repository"),
        ({"routing": {"clusters": {"east": {}}}}, "routing.clustersSecret: name the Secret"),
        (
            {"scaling": {"keda": {"podIdentity": "azure-workload", "secret": {"name": "x", "key": "y"}}}},
            "scaling.keda: set podIdentity or secret.name, not both",
        ),
        (
            {"scaling": {"keda": {"podIdentity": "azure-workload", "redis": {"address": "redis:6379"}}}},
            "scaling.keda: set redis.address, or podIdentity or secret.name for the database, not both",
        ),
        (
            {"embedded": {"postgresql": {"enabled": True}}, "database": {"dialect": "mysql"}},
            "database.dialect: embedded.postgresql is a PostgreSQL",
        ),
        (
            {"embedded": {"valkey": {"enabled": True}}, "secrets": {"name": "mine"}},
            "secrets.name: embedded servers have the passwords of the Secret that the chart's Job makes",
        ),
        (
            {"fullnameOverride": "a" * 40, "pools": {"a-rather-long-name": {"queues": ["x"]}}},
            "is longer than 54 characters; shorten the pool's name or set fullnameOverride",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_sentence(helm: Helm, values: Any, said: str) -> None:
    with pytest.raises(HelmFailed, match=re.escape(said)):
        helm.text(values=LEAST | values)


def data(objects: list[Manifest], name: str) -> dict[str, str]:
    return dict(one(objects, "ConfigMap", name)["data"])


def test_the_executor_reads_what_the_chart_writes(helm: Helm) -> None:
    files = data(helm.objects(PRODUCTION), "airflow-routing")
    pools = {pool.name: pool for pool in parse_pools(files["pools.yaml"], "pools.yaml")}
    assert set(pools) == {"light", "it-s", "heavy"}
    assert pools["light"].queues == ("light", "gpu-light")
    assert (pools["light"].min_replicas, pools["light"].max_replicas, pools["light"].concurrency) == (
        1,
        20,
        32,
    )
    routes = parse_routes(files["routes.yaml"], "/opt/airflow/hybrid/routes.yaml")
    assert routes[1].route.pod_template_file == "/opt/airflow/hybrid/templates/training.yaml"


def test_clusters_are_named_beside_their_kubeconfigs(helm: Helm) -> None:
    files = data(helm.objects(NAMESPACES), "flow-routing")
    (east,) = parse_clusters(files["clusters.yaml"], "/opt/airflow/hybrid/clusters.yaml")
    assert east.kubeconfig == "/opt/airflow/hybrid/east.kubeconfig"


@pytest.mark.parametrize(("by", "replicas"), [("none", 3), ("hpa", None), ("keda", None)])
def test_a_pool_that_something_scales_has_no_replicas_of_its_own(helm: Helm, by: str, replicas: Any) -> None:
    values = least(scaling={"by": by}, pools={"default": {"queues": ["default"], "replicas": 3}})
    pool = one(helm.objects(values=values), "Deployment", "airflow-worker-default")
    assert pool["spec"].get("replicas") == replicas


def test_without_autoscaler_the_executor_is_told_the_fixed_number(helm: Helm) -> None:
    values = least(pools={"default": {"queues": ["default"], "replicas": 3}})
    (pool,) = parse_pools(data(helm.objects(values=values), "airflow-routing")["pools.yaml"], "pools")
    assert (pool.min_replicas, pool.max_replicas) == (3, 3)


def test_a_pool_taken_away_leaves_nothing(helm: Helm) -> None:
    objects = helm.objects(values=least(pools={"default": None}, scaling={"by": "keda"}))
    assert not [
        each for each in objects if each["kind"] == "ScaledObject" or "-worker-" in each["metadata"]["name"]
    ]
    assert parse_pools(data(objects, "airflow-routing")["pools.yaml"], "pools") == ()


def test_the_autoscaler_is_told_the_number_of_workers_exactly(helm: Helm) -> None:
    scaled = one(helm.objects(PRODUCTION), "ScaledObject", "airflow-worker-light")["spec"]
    assert scaled["scaleTargetRef"] == {"name": "airflow-worker-light"}
    assert (scaled["minReplicaCount"], scaled["maxReplicaCount"]) == (1, 20)
    (trigger,) = scaled["triggers"]
    assert (trigger["metricType"], trigger["metadata"]["targetQueryValue"]) == ("AverageValue", "1")
    behavior = scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleUp"]["tolerance"] == behavior["scaleDown"]["tolerance"] == "0"


def test_an_outage_of_the_database_takes_no_worker_away(helm: Helm) -> None:
    for each in helm.objects(PRODUCTION):
        if each["kind"] == "ScaledObject":
            assert each["spec"]["fallback"]["behavior"] == "currentReplicasIfHigher"
            assert each["spec"]["fallback"]["replicas"] >= 1


def test_a_pool_may_wait_longer_than_the_others(helm: Helm) -> None:
    objects = helm.objects(PRODUCTION)
    own, common = (
        one(objects, "ScaledObject", f"airflow-worker-{pool}")["spec"] for pool in ("it-s", "light")
    )
    assert (own["cooldownPeriod"], common["cooldownPeriod"]) == (600, 120)


def test_what_a_pool_asks_for_is_not_mixed_with_what_others_ask_for(helm: Helm) -> None:
    """A request above a limit that comes from elsewhere is refused by Kubernetes."""
    (worker,) = pod_specs(helm.objects(PRODUCTION))["Deployment/airflow-worker-heavy"]["spec"]["containers"]
    assert worker["resources"] == {"requests": {"memory": "16Gi"}}


def test_a_worker_is_known_by_its_pod_and_drains_before_it_is_told_to_end(helm: Helm) -> None:
    pod = pod_specs(helm.objects(PRODUCTION))["Deployment/airflow-worker-heavy"]
    (worker,) = pod["spec"]["containers"]
    assert worker["args"][-2:] == ["--celery-hostname", "celery@$(POD_NAME)"]
    assert pod["spec"]["terminationGracePeriodSeconds"] == 21600
    drain = worker["lifecycle"]["preStop"]["exec"]["command"]
    assert drain == ["python", "-m", "hybrid_executor.worker.drain", "--timeout", "21570"]
    assert {"name": "DUMB_INIT_SETSID", "value": "0"} in worker["env"]
    assert pod["metadata"]["labels"]["hybrid-executor/pool"] == "heavy"


@pytest.mark.parametrize(
    ("values", "grace_s", "longest"),
    [
        ({}, 3600, None),
        ({"workers": {"longestTaskSeconds": 7200}}, 7230, "7200"),
        ({"workers": {"longestTaskSeconds": 7200}, "poolDefaults": {"drainMarginSeconds": 60}}, 7260, "7200"),
        ({"workers": {"longestTaskSeconds": 7200}, "poolDefaults": {"gracePeriodSeconds": 90}}, 90, "7200"),
    ],
)
def test_one_value_says_how_long_a_task_may_run(
    helm: Helm, values: Any, grace_s: int, longest: str | None
) -> None:
    objects = helm.objects(values=LEAST | values)
    worker = pod_specs(objects)["Deployment/airflow-worker-default"]["spec"]
    assert worker["terminationGracePeriodSeconds"] == grace_s
    margin_s = values.get("poolDefaults", {}).get("drainMarginSeconds", 30)
    drain = worker["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert drain[-1] == str(grace_s - margin_s)
    for part in ("airflow-config", "airflow-config-tasks"):
        assert data(objects, part).get("AIRFLOW__HYBRID_EXECUTOR__LONGEST_TASK_S") == longest


@pytest.mark.parametrize("serves", [True, False])
def test_a_worker_has_the_key_of_those_who_ask_for_logs_where_it_serves_them(
    helm: Helm, serves: bool
) -> None:
    objects = helm.objects(values=least(workers={"serveLogs": serves}))
    (worker,) = pod_specs(objects)["Deployment/airflow-worker-default"]["spec"]["containers"]
    named = {each["name"]: each.get("valueFrom") for each in worker["env"]}
    (server,) = pod_specs(objects)["Deployment/airflow-api-server"]["spec"]["containers"]
    asks = {each["name"]: each.get("valueFrom") for each in server["env"]}["AIRFLOW__API__SECRET_KEY"]
    assert named.get("AIRFLOW__API__SECRET_KEY") == (asks if serves else None)
    assert ("--skip-serve-logs" in worker["args"]) == (not serves)


def test_load_makes_no_worker_unready(helm: Helm) -> None:
    for name, pod in pod_specs(helm.objects(PRODUCTION)).items():
        if "-worker-" in name:
            assert not [key for key in pod["spec"]["containers"][0] if key.endswith("Probe")]


def test_who_packs_nodes_leaves_what_runs_tasks(helm: Helm) -> None:
    objects = helm.objects(PRODUCTION)
    running = [pod for name, pod in pod_specs(objects).items() if "-worker-" in name]
    running.append(yaml.safe_load(data(objects, "airflow-pod-templates")["task.yaml"]))
    for pod in running:
        annotations = pod["metadata"]["annotations"]
        assert annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"] == "false"
        assert annotations["karpenter.sh/do-not-disrupt"] == "true"


def test_a_change_of_one_pool_restarts_no_other(helm: Helm) -> None:
    def workers(**pool: Any) -> dict[str, Any]:
        pools = {"default": {"queues": ["default"]}, "other": {"queues": ["other"], **pool}}
        return pod_specs(helm.objects(values=least(pools=pools)))

    before, after = workers(), workers(concurrency=3)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"Deployment/airflow-worker-other", "Deployment/airflow-scheduler"}


def test_another_image_is_another_migration(helm: Helm) -> None:
    def job(tag: str) -> str:
        names = pod_specs(helm.objects(values=least(image={"tag": tag})))
        (name,) = (name for name in names if name.startswith("Job/airflow-migrate-"))
        return name

    assert job("1") == job("1") != job("2")


def test_workers_may_run_what_the_first_try_needs_without_any_right(helm: Helm) -> None:
    bound = {
        subject["name"]
        for each in helm.objects(PRODUCTION)
        if each["kind"] == "RoleBinding"
        for subject in each["subjects"]
    }
    assert bound == {"airflow-scheduler", "airflow-api-server"}


def roles(objects: list[Manifest]) -> set[tuple[str, str]]:
    """Name and namespace of each; every one is bound there."""
    found = {
        kind: {
            (each["metadata"]["name"], each["metadata"]["namespace"])
            for each in objects
            if each["kind"] == kind
        }
        for kind in ("Role", "RoleBinding")
    }
    assert found["Role"] == found["RoleBinding"]
    return found["Role"]


def test_rights_are_given_where_task_pods_run_and_beside_airflows_secrets_only_those_over_pools(
    helm: Helm,
) -> None:
    objects = helm.objects(NAMESPACES)
    wanted = {
        (f"flow-{account}", where)
        for account in ("scheduler", "api-server")
        for where in ("tasks", "research")
    }
    wanted |= {("flow-pod-starter", "started"), ("flow-pools", "data"), ("flow-secrets", "data")}
    assert roles(objects) == wanted
    settings = data(objects, "flow-config")
    watched = settings["AIRFLOW__KUBERNETES_EXECUTOR__MULTI_NAMESPACE_MODE_NAMESPACE_LIST"]
    assert settings["AIRFLOW__KUBERNETES_EXECUTOR__MULTI_NAMESPACE_MODE"] == "True"
    assert watched.split(",") == ["tasks", "research"]
    assert settings["AIRFLOW__HYBRID_EXECUTOR__WORKERS_NAMESPACE"] == "data"


def test_a_route_into_the_releases_namespace_gives_the_rights_for_it_there(helm: Helm) -> None:
    routing = {"routes": [{"queue": "near", "backend": "kubernetes", "namespace": "data"}]}
    given = roles(helm.objects(values=least(routing=routing, taskPods={"namespace": "tasks"})))
    assert {("airflow-scheduler", "data"), ("airflow-scheduler", "tasks")} <= given
    assert ("airflow-pools", "data") not in given


def test_a_users_setting_goes_before_the_charts(helm: Helm) -> None:
    values = least(airflow={"config": {"core": {"load_examples": True, "parallelism": 64}}})
    settings = data(helm.objects(values=values), "airflow-config")
    assert (settings["AIRFLOW__CORE__LOAD_EXAMPLES"], settings["AIRFLOW__CORE__PARALLELISM"]) == (
        "True",
        "64",
    )


def notes(helm: Helm, values: Any) -> str:
    options = ("--dry-run=client", "--namespace=data", "--values=-")
    said = helm.run("install", "airflow", str(CHART), *options, stdin=json.dumps(values))
    return said.partition("NOTES:")[2]


def test_the_notes_say_what_to_check(helm: Helm) -> None:
    said = notes(helm, least(pools={"default": None, "heavy": {"queues": ["heavy"]}}))
    assert 'no pool serves the queue "default"' in said
    assert "The log of a task is lost" in said
    assert "airflow hybrid doctor" in said
    assert "WARNING" not in notes(helm, least(logs={"remote": "s3://logs"}))


def test_flower_does_not_start_without_a_password_to_ask_for(helm: Helm) -> None:
    """A variable out of a Secret that is not optional: without it Kubernetes makes no container."""
    deployment = one(helm.objects(values=least(flower={"enabled": True})), "Deployment", "airflow-flower")
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    [secret] = [
        variable["valueFrom"]["secretKeyRef"]
        for variable in container["env"]
        if variable["name"] == "AIRFLOW__CELERY__FLOWER_BASIC_AUTH"
    ]
    assert secret == {"name": "airflow-generated", "key": "flower-auth"}


@pytest.mark.parametrize("claim", ["", "flower"])
def test_flower_keeps_what_it_has_seen_with_its_pod_or_in_a_claim(helm: Helm, claim: str) -> None:
    values = least(flower={"enabled": True, "claim": claim}, logs={"claim": "tasks"})
    deployment = one(helm.objects(values=values), "Deployment", "airflow-flower")
    spec = deployment["spec"]["template"]["spec"]
    env = {variable["name"]: variable.get("value") for variable in spec["containers"][0]["env"]}
    assert env["FLOWER_PERSISTENT"] == "true"
    [mount] = [
        m for m in spec["containers"][0]["volumeMounts"] if env["FLOWER_DB"].startswith(m["mountPath"])
    ]
    [volume] = [volume for volume in spec["volumes"] if volume["name"] == mount["name"]]
    assert volume.get("persistentVolumeClaim") == ({"claimName": claim} if claim else None)
    assert (deployment["spec"].get("strategy") == {"type": "Recreate"}) == bool(claim)


def test_keys_are_made_once_and_are_keys() -> None:
    source = (CHART / "files" / "make_secrets.py").read_text().partition("body = ")[0]
    scope: dict[str, Any] = {}
    arguments = "'data', 'keys', 'postgres', 'valkey', 'admin:admin,eve:viewer'"
    exec(source.replace("sys.argv[1:]", arguments), scope)  # noqa: S102
    first, second = scope["made"](), scope["made"]()
    assert len(base64.urlsafe_b64decode(first["fernet-key"])) == 32
    assert set(json.loads(first["passwords.json"])) == {"admin", "eve"}
    # SQLAlchemy takes an address without a driver for psycopg 3, and KEDA takes none with one (AF#42070).
    assert first["connection"].replace("+psycopg2", "") == first["keda-connection"] != first["connection"]
    assert not {first[key] for key in first} & {second[key] for key in second}
