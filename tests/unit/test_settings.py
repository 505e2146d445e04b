"""Settings: every option is read once, and a mistake becomes one line with a safe default in its place."""

from pathlib import Path

import pytest
from airflow.configuration import conf

from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.ledger.live.config import LiveConfig
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.errors import ConfigError
from hybrid_executor.options import OPTIONS, SECTION
from hybrid_executor.settings import Settings, WorkerSettings, load_routing, load_settings
from tests.fixtures.settings import Load


def test_nothing_but_the_executor_needs_to_be_set(load: Load) -> None:
    settings = load(API_AUTH__JWT_SECRET="")
    assert settings.problems == ()
    assert settings.notes == ()
    assert settings == Settings(
        celery=settings.celery,
        live=settings.live,
        log_folder=settings.log_folder,
        kubernetes=KubernetesConfig(deployment=settings.kubernetes.deployment),
    )


def test_airflows_own_conf_is_read_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__HYBRID_EXECUTOR__HELD_LIMIT", "7")
    assert load_settings().held_limit == load_settings(conf).held_limit == 7


def test_every_option_of_the_section_arrives(load: Load, tmp_path: Path) -> None:
    (tmp_path / "clusters.yaml").write_text("version: 1\nclusters: {}\n")
    settings = load(
        f"""
[hybrid_executor]
kubernetes_queues = pods, gpu-*, pods,
clusters_file = {tmp_path}/clusters.yaml
routes_file = {tmp_path}/routes.yaml
celery_parallelism = 10
kubernetes_parallelism = 4
held_limit = 20
submission_limit = 2
token_life_s = 3600
workload_secret = False
measure_pods = True
reconcile_interval_s = 5
backoff_first_s = 0.5
backoff_max_s = 8
[core]
parallelism = 64
[operators]
default_queue = normal
[scheduler]
task_queued_timeout = 10
scheduler_health_check_threshold = 4
"""
    )
    assert settings.problems == ()
    assert settings == Settings(
        kubernetes_queues=("pods", "gpu-*"),
        routes_file=f"{tmp_path}/routes.yaml",
        clusters_file=f"{tmp_path}/clusters.yaml",
        celery_parallelism=10,
        kubernetes_parallelism=4,
        held_limit=20,
        submission_limit=2,
        token_life_s=3600,
        workload_secret=False,
        measure_pods=True,
        reconcile_interval_s=5.0,
        backoff_first_s=0.5,
        backoff_max_s=8.0,
        parallelism=64,
        default_queue="normal",
        task_queued_timeout_s=10.0,
        scheduler_health_check_threshold_s=4.0,
        celery=settings.celery,
        live=settings.live,
        log_folder=settings.log_folder,
        kubernetes=settings.kubernetes,
    )


def test_every_documented_option_is_a_setting_or_the_plugins() -> None:
    fields = {*Settings.__dataclass_fields__, *KubernetesConfig.__dataclass_fields__}
    live = {f"live_{name}" for name in LiveConfig.__dataclass_fields__}
    worker = {*WorkerSettings.__dataclass_fields__}
    assert {option.name for option in OPTIONS} <= fields | live | worker | {"flower_url"}


def test_every_mistake_is_in_the_list_and_has_a_default_in_its_place(load: Load) -> None:
    settings = load(
        """
[hybrid_executor]
held_limit = many
celery_parallelism = -1
submission_limit = 0
backoff_first_s = nan
token_life_s = 1.5
kubernetes_queue = gpu
[kubernetes_executor]
delete_worker_pods = perhaps
delete_option_kwargs = {"password": "hunter2",
kube_client_request_args = {"_request_timeout": "long", "_preload_content": false}
client_factory = my.factory
[scheduler]
task_queued_timeout = soon
""",
        CORE__PARALLELISM="0",
    )
    lines = "\n".join(settings.problems)
    for line in (
        "[hybrid_executor] held_limit: must be a whole number, at least 0, not 'many'; 1000 is used",
        "[hybrid_executor] celery_parallelism: must be a whole number, at least 0, not '-1'; 0 is used",
        "[hybrid_executor] submission_limit: must be a whole number, at least 1, not '0'; 5 is used",
        "[hybrid_executor] backoff_first_s: must be a number of seconds, at least 0.05, not 'nan'; 1.0 is",
        "[hybrid_executor] token_life_s: must be a whole number, at least 60, not '1.5'; 86400 is used",
        "[hybrid_executor] kubernetes_queue: is no option; remove it or correct its name (did you mean kub",
        "[kubernetes_executor] delete_worker_pods: must be True or False, not 'perhaps'; True is used",
        "[kubernetes_executor] delete_option_kwargs: is not valid JSON",
        "[kubernetes_executor] kube_client_request_args: '_preload_content' is not supported; remove it",
        "[kubernetes_executor] kube_client_request_args: '_request_timeout' must be seconds",
        "[kubernetes_executor] client_factory: is not supported and has no effect",
        "[scheduler] task_queued_timeout: must be a number of seconds, at least 1.0, not 'soon'; 600.0",
        "[core] parallelism (set by AIRFLOW__CORE__PARALLELISM): must be a whole number, at least 1, not '0'",
    ):
        assert line in lines
    assert len(settings.problems) == 13
    assert "hunter2" not in lines
    defaults = Settings(
        celery=settings.celery,
        live=settings.live,
        log_folder=settings.log_folder,
        kubernetes=KubernetesConfig(deployment=settings.kubernetes.deployment),
    )
    assert settings == Settings(
        celery=settings.celery,
        live=settings.live,
        log_folder=settings.log_folder,
        kubernetes=defaults.kubernetes,
        problems=settings.problems,
    )
    assert defaults.problems == ()


def test_an_unknown_option_in_the_environment_is_named_with_its_variable(load: Load) -> None:
    [problem] = load(HYBRID_EXECUTOR__ROUTES="x").problems
    assert problem.startswith(
        "[hybrid_executor] routes (set by AIRFLOW__HYBRID_EXECUTOR__ROUTES): is no option"
    )


def test_a_backoff_that_shrinks_is_a_problem(load: Load) -> None:
    settings = load("[hybrid_executor]\nbackoff_first_s = 9\nbackoff_max_s = 3\n")
    assert (settings.backoff_first_s, settings.backoff_max_s) == (9.0, 9.0)
    assert "backoff_max_s: is 3, less than backoff_first_s (9)" in settings.problems[0]


def test_a_token_lives_as_long_as_the_broker_hides_a_message(load: Load) -> None:
    options = "[celery_broker_transport_options]\nvisibility_timeout = 7200\n"
    assert load(options).token_life_s == 7200
    assert load(options + "[hybrid_executor]\ntoken_life_s = 600\n").token_life_s == 600


def test_kubernetes_options_keep_their_meaning(load: Load) -> None:
    settings = load(
        """
[celery]
operation_timeout = 2.5
[kubernetes_executor]
namespace = airflow
multi_namespace_mode = True
multi_namespace_mode_namespace_list = airflow, team-a
worker_pod_pending_fatal_container_state_reasons = ErrImagePull
delete_worker_pods = False
delete_worker_pods_on_failure = True
delete_option_kwargs = {"grace_period_seconds": 10}
kube_client_request_args = {"_request_timeout": [3, 20]}
pod_creation_max_concurrency = 8
in_cluster = False
cluster_context = kind
config_file = /etc/kube
verify_ssl = False
ssl_ca_cert = /etc/ca.pem
enable_tcp_keepalive = False
tcp_keep_idle = 1
tcp_keep_intvl = 2
tcp_keep_cnt = 3
running_pod_log_lines = 50
pod_template_file = /etc/pod.yaml
worker_container_repository = registry/airflow
worker_container_tag = 3.3.2
"""
    )
    assert settings.problems == ()
    assert settings.celery.operation_timeout_s == 2.5
    assert settings.kubernetes == KubernetesConfig(
        deployment=settings.kubernetes.deployment,
        namespace="airflow",
        scopes=("airflow", "team-a"),
        fatal_waiting_reasons=frozenset({"ErrImagePull"}),
        delete_worker_pods=False,
        delete_worker_pods_on_failure=True,
        delete_options={"grace_period_seconds": 10},
        request_timeout_s=(3.0, 20.0),
        creation_concurrency=8,
        in_cluster=False,
        cluster_context="kind",
        config_file="/etc/kube",
        verify_ssl=False,
        ssl_ca_cert="/etc/ca.pem",
        tcp_keepalive=False,
        tcp_keepalive_idle_s=1,
        tcp_keepalive_interval_s=2,
        tcp_keepalive_count=3,
        running_pod_log_lines=50,
    )
    assert settings.pod_template_file == "/etc/pod.yaml"
    assert settings.worker_image == "registry/airflow:3.3.2"


def test_all_namespaces_are_watched_where_no_list_is_given(load: Load) -> None:
    assert load("[kubernetes_executor]\nmulti_namespace_mode = True\n").kubernetes.watched == (None,)


# --- who else runs ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "executor", ["CeleryExecutor:hybrid_executor.HybridExecutor", "hybrid_executor.executor.HybridExecutor"]
)
def test_this_executor_is_known_by_alias_and_by_its_full_path(load: Load, executor: str) -> None:
    settings = load(executor=executor)
    assert settings.other_executors == ()
    assert settings.executor_string == executor
    assert all(settings.is_ours(name) for name in executor.split(":"))


def test_an_executor_beside_ours_is_warned_about(load: Load) -> None:
    settings = load(executor="hybrid_executor.HybridExecutor, LocalExecutor")
    assert settings.other_executors == ("LocalExecutor",)
    assert "LocalExecutor is configured beside the hybrid executor" in settings.problems[0]


def test_another_executor_in_our_place_is_a_problem(load: Load) -> None:
    settings = load(executor="LocalExecutor")
    assert settings.problems == (
        (
            "[core] executor (set by AIRFLOW__CORE__EXECUTOR): is 'LocalExecutor', which is not the hybrid"
            " executor; set it to hybrid_executor.HybridExecutor"
        ),
    )


def test_multi_team_is_refused_in_clear_words(load: Load) -> None:
    settings = load("[core]\nmulti_team = True\n")
    assert settings.multi_team
    assert settings.problems[0].startswith("[core] multi_team: ")
    assert "set it to False" in settings.problems[0]


# --- Airflow 2's queue ----------------------------------------------------------------------


def backend(settings: Settings, queue: str) -> BackendName:
    return load_routing(settings).route(queue).backend


def test_the_providers_default_of_airflow_2s_queue_counts_as_not_set(load: Load) -> None:
    assert conf.get("celery_kubernetes_executor", "kubernetes_queue") == "kubernetes"
    assert load().airflow2_kubernetes_queue is None


def test_an_airflow_cfg_with_all_defaults_written_out_sets_nothing(load: Load) -> None:
    settings = load(
        "[celery_kubernetes_executor]\nkubernetes_queue = kubernetes\n"
        "[hybrid_executor]\nkubernetes_queues = gpu-*\n"
    )
    assert settings.notes == ()
    assert backend(settings, "kubernetes") is BackendName.CELERY


def test_airflow_2s_queue_is_honoured_with_one_note(load: Load) -> None:
    settings = load("[celery_kubernetes_executor]\nkubernetes_queue = pods\n")
    assert settings.problems == ()
    assert settings.notes == (
        (
            "[celery_kubernetes_executor] kubernetes_queue is deprecated;"
            " add 'pods' to [hybrid_executor] kubernetes_queues and remove it"
        ),
    )
    assert backend(settings, "pods") is BackendName.KUBERNETES
    assert backend(settings, "kubernetes") is BackendName.CELERY
    assert load_routing(settings).route("pods").rule.startswith("[celery_kubernetes_executor]")


def test_airflow_2s_queue_from_the_environment_is_honoured(load: Load) -> None:
    settings = load(CELERY_KUBERNETES_EXECUTOR__KUBERNETES_QUEUE="pods")
    assert "AIRFLOW__CELERY_KUBERNETES_EXECUTOR__KUBERNETES_QUEUE" in settings.notes[0]
    assert backend(settings, "pods") is BackendName.KUBERNETES


def test_both_queues_count_where_both_are_set(load: Load) -> None:
    settings = load(
        "[celery_kubernetes_executor]\nkubernetes_queue = pods\n"
        "[hybrid_executor]\nkubernetes_queues = gpu-*\n"
    )
    assert backend(settings, "pods") is backend(settings, "gpu-1") is BackendName.KUBERNETES
    assert backend(settings, "kubernetes") is BackendName.CELERY


# --- the routes file ------------------------------------------------------------------------


def test_the_routes_file_comes_first_then_the_queues_then_celery(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text("version: 1\nroutes:\n  - {queue: kubernetes, backend: celery}\n", encoding="utf-8")
    settings = load(
        f"[hybrid_executor]\nroutes_file = {path}\nkubernetes_queues = kubernetes, gpu-*\n",
    )
    assert backend(settings, "kubernetes") is BackendName.CELERY
    assert backend(settings, "gpu-1") is BackendName.KUBERNETES
    assert backend(settings, "default") is BackendName.CELERY


def test_a_relative_routes_file_is_relative_to_airflow_home(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    assert load(HYBRID_EXECUTOR__ROUTES_FILE="routes.yaml").routes_file == str(tmp_path / "routes.yaml")


def test_a_missing_routes_file_is_a_config_error_and_no_settings_problem(load: Load, tmp_path: Path) -> None:
    settings = load(HYBRID_EXECUTOR__ROUTES_FILE=str(tmp_path / "none.yaml"))
    assert settings.problems == ()
    with pytest.raises(ConfigError, match=r"none.yaml: can't be read \(No such file or directory\)"):
        load_routing(settings)


def test_a_routes_file_that_is_no_text_is_a_config_error(load: Load, tmp_path: Path) -> None:
    (tmp_path / "routes.yaml").write_bytes(b"\xff\xfe\x00")
    settings = load(HYBRID_EXECUTOR__ROUTES_FILE=str(tmp_path / "routes.yaml"))
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_routing(settings)


def test_pod_defaults_that_no_pod_can_have_are_refused_with_their_line(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "routes.yaml"
    path.write_text(
        "version: 1\n"
        "routes:\n"
        "  - queue: gpu\n"
        "    backend: kubernetes\n"
        "    pod:\n"
        "      metadata: {labels: {env: prod}}\n"
        "      spec:\n"
        "        priority: high\n"
        "        containers:\n"
        "          - image: gpu:1\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_routing(load(HYBRID_EXECUTOR__ROUTES_FILE=str(path)))
    assert caught.value.problems == (
        f"{path}:8: rule 1, pod.spec.priority: must be a whole number, not 'high'",
        f"{path}:10: rule 1, pod.spec.containers[0]: must be a mapping with name, by which it is merged",
    )


def test_the_section_name_is_the_packages(load: Load) -> None:
    assert SECTION == "hybrid_executor"


def test_airflows_on_different_databases_have_different_names_and_no_secret_is_in_them(load: Load) -> None:
    def deployment(dsn: str) -> str:
        return load(DATABASE__SQL_ALCHEMY_CONN=dsn).kubernetes.deployment

    first = deployment("postgresql+psycopg2://user:secret@db:5432/first")
    assert first == deployment("postgresql+psycopg2://user:changed@db:5432/first")
    assert first != deployment("postgresql+psycopg2://user:secret@db:5432/second")
    assert "secret" not in first


def test_an_airflow_may_be_named_in_place_of_its_database(load: Load) -> None:
    settings = load(HYBRID_EXECUTOR__DEPLOYMENT="airflow.production")
    assert settings.kubernetes.deployment == "airflow.production"
    assert settings.problems == ()


def test_a_name_that_is_no_label_is_said_once_and_not_used(load: Load) -> None:
    settings = load(HYBRID_EXECUTOR__DEPLOYMENT="my airflow")
    assert settings.kubernetes.deployment == load().kubernetes.deployment
    (problem,) = settings.problems
    assert "deployment" in problem
    assert "a letter or digit first" in problem


@pytest.mark.parametrize(
    ("on", "tagged"),
    [
        ((), True),
        (("otel_on",), True),
        (("statsd_on",), False),
        (("statsd_on", "statsd_influxdb_enabled"), True),
        (("statsd_on", "statsd_datadog_enabled"), True),
        (("statsd_on", "otel_on"), False),
    ],
)
def test_metrics_have_tags_where_the_collector_knows_them(
    load: Load, on: tuple[str, ...], tagged: bool
) -> None:
    text = "".join(f"{option} = True\n" for option in on)
    assert load(f"[metrics]\n{text}").metrics_are_tagged is tagged


def test_the_cluster_is_looked_at_only_where_that_is_asked_for(load: Load) -> None:
    assert not load().kubernetes.cluster_view
    assert load("[hybrid_executor]\ncluster_view = True\n").kubernetes.cluster_view


def test_a_message_is_hidden_as_long_as_the_longest_task_runs(load: Load) -> None:
    settings = load("[hybrid_executor]\nlongest_task_s = 172800\n")
    assert (settings.token_life_s, settings.problems) == (172800, ())


def test_a_broker_that_delivers_long_tasks_twice_is_a_problem(load: Load) -> None:
    options = "[celery_broker_transport_options]\nvisibility_timeout = 7200\n"
    [problem] = load(options + "[hybrid_executor]\nlongest_task_s = 172800\n").problems
    assert "visibility_timeout: is 7200, less than [hybrid_executor] longest_task_s (172800)" in problem
