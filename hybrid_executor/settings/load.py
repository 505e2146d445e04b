"""Reads all of the executor's settings from Airflow's configuration, once.

Never raises for what a user wrote; see the package's own words. Called by the
executor's constructor and by the ``airflow hybrid`` commands.
"""

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.configuration import conf as airflow_conf
from airflow.configuration import get_airflow_home

from hybrid_executor.options import OPTIONS, SECTION, default
from hybrid_executor.settings.backends import KUBERNETES, celery_config, kubernetes_config, pod_image
from hybrid_executor.settings.clusters import load_clusters
from hybrid_executor.settings.live import live_config
from hybrid_executor.settings.pools import load_pools
from hybrid_executor.settings.reader import Reader
from hybrid_executor.settings.values import Settings
from hybrid_executor.settings.worker import visibility_timeout
from hybrid_executor.transitionlog import STDOUT

if TYPE_CHECKING:
    from airflow.configuration import AirflowConfigParser

#: The paths by which ``[core] executor`` may name this executor.
OUR_PATHS = frozenset({"hybrid_executor.HybridExecutor", "hybrid_executor.executor.HybridExecutor"})
#: The Celery provider's default of ``[celery_kubernetes_executor] kubernetes_queue``.
AIRFLOW2_QUEUE = "kubernetes"


def load_settings(conf: "AirflowConfigParser | None" = None) -> Settings:
    """Return the settings; what is wrong with them is in ``problems``."""
    return _settings(Reader(airflow_conf if conf is None else conf))


def _settings(read: Reader) -> Settings:
    _unknown_options(read)
    executor = read.text("core", "executor", "hybrid_executor.HybridExecutor")
    backoff_first_s, backoff_max_s = _backoff(read)
    queues, airflow2_queue = _kubernetes_queues(read)
    kubernetes = kubernetes_config(read)
    clusters_file, pools_file = _file(read, "clusters_file"), _file(read, "pools_file")
    return Settings(
        executor_string=executor,
        signing_key_is_set=any(
            read.text("api_auth", option) for option in ("jwt_secret", "jwt_private_key_path")
        ),
        executor_names=_executor_names(executor),
        other_executors=_other_executors(read, executor),
        default_executor=next((alias or path for alias, path in _entries(executor)), ""),
        multi_team=_multi_team(read),
        parallelism=read.integer("core", "parallelism", 32, least=1),
        default_queue=read.text("operators", "default_queue", "default"),
        metrics_are_tagged=_metrics_are_tagged(read),
        metrics_are_on=any(
            read.boolean("metrics", option, False)
            for option in ("statsd_datadog_enabled", "statsd_on", "otel_on")
        ),
        task_queued_timeout_s=read.seconds("scheduler", "task_queued_timeout", 600.0, least=1.0),
        task_instance_heartbeat_timeout_s=read.seconds(
            "scheduler", "task_instance_heartbeat_timeout", 300.0, least=1.0
        ),
        scheduler_health_check_threshold_s=read.seconds(
            "scheduler", "scheduler_health_check_threshold", 30.0, least=1.0
        ),
        log_folder=read.text("logging", "base_log_folder"),
        kubernetes_queues=queues,
        airflow2_kubernetes_queue=airflow2_queue,
        routes_file=_file(read, "routes_file"),
        clusters_file=clusters_file,
        pools_file=pools_file,
        pools=load_pools(read, pools_file),
        traces_are_on=read.boolean("traces", "otel_on", False),
        transitions_log=_transitions_log(read),
        celery_parallelism=_integer(read, "celery_parallelism"),
        kubernetes_parallelism=_integer(read, "kubernetes_parallelism"),
        held_limit=_integer(read, "held_limit"),
        submission_limit=_integer(read, "submission_limit", least=1),
        token_life_s=_token_life(read),
        workload_secret=read.boolean(SECTION, "workload_secret", default("workload_secret") == "True"),
        measure_pods=read.boolean(SECTION, "measure_pods", default("measure_pods") == "True"),
        flower_events=read.boolean(SECTION, "flower_events", default("flower_events") == "True"),
        reconcile_interval_s=_seconds(read, "reconcile_interval_s", least=1.0),
        backoff_first_s=backoff_first_s,
        backoff_max_s=backoff_max_s,
        celery=celery_config(read),
        live=live_config(read),
        kubernetes=kubernetes,
        clusters=load_clusters(read, clusters_file, kubernetes),
        pod_template_file=read.text(KUBERNETES, "pod_template_file"),
        worker_image=pod_image(read),
        # Last: all of the above has been read by now.
        problems=tuple(read.problems),
        notes=tuple(read.notes),
    )


def _integer(read: Reader, option: str, *, least: int = 0) -> int:
    return read.integer(SECTION, option, int(default(option)), least=least)


def _seconds(read: Reader, option: str, *, least: float) -> float:
    return read.seconds(SECTION, option, float(default(option)), least=least)


def _backoff(read: Reader) -> tuple[float, float]:
    first_s = _seconds(read, "backoff_first_s", least=0.05)
    max_s = _seconds(read, "backoff_max_s", least=0.05)
    if first_s <= max_s:
        return first_s, max_s
    read.problem(
        SECTION,
        "backoff_max_s",
        f"is {max_s:g}, less than backoff_first_s ({first_s:g}); raise it. {first_s:g} is used for both",
    )
    return first_s, first_s


def _token_life(read: Reader) -> int:
    return read.integer(SECTION, "token_life_s", visibility_timeout(read), least=60)


def _metrics_are_tagged(read: Reader) -> bool:
    """As Airflow chooses: DogStatsD before StatsD before OpenTelemetry."""
    dog, influx = (
        read.boolean("metrics", option, False)
        for option in ("statsd_datadog_enabled", "statsd_influxdb_enabled")
    )
    return dog or influx or not read.boolean("metrics", "statsd_on", False)


def _kubernetes_queues(read: Reader) -> tuple[tuple[str, ...], str | None]:
    """The queues of our option, and Airflow 2's queue where the user still sets that.

    Airflow 2's takes the place of our option's default, so that a queue named
    ``kubernetes`` stays with Celery where it was before; what the user has
    set in our option is kept beside it.
    """
    old, new = ("celery_kubernetes_executor", "kubernetes_queue"), (SECTION, "kubernetes_queues")
    queues = read.listed(*new, default(new[1]))
    if not read.is_set(*old, AIRFLOW2_QUEUE):
        return queues, None
    queue = read.text(*old)
    if not queue:
        return queues, None
    read.notes.append(
        f"{read.name(*old)} is deprecated; add {queue!r} to [{SECTION}] kubernetes_queues and remove it"
    )
    return (queues if read.is_set(*new, default(new[1])) else ()), queue


def _file(read: Reader, option: str) -> str | None:
    """The absolute path; a relative one starts at AIRFLOW_HOME, whatever the working directory."""
    path = read.text(SECTION, option)
    return str(Path(get_airflow_home(), path)) if path else None


def _transitions_log(read: Reader) -> str:
    if read.text(SECTION, "transitions_log") == STDOUT:
        return STDOUT
    return _file(read, "transitions_log") or ""


def _multi_team(read: Reader) -> bool:
    multi_team = read.boolean("core", "multi_team", False)
    if multi_team:
        read.problem(
            "core",
            "multi_team",
            "the hybrid executor does not support teams: it is refused by Airflow for every team,"
            " and tasks of a team are not run; set it to False",
        )
    return multi_team


def _entries(configured: str) -> list[tuple[str, str]]:
    """(alias, path) of every executor of ``[core] executor``; of teams too, which start with ``team=``."""
    names = (name.strip() for group in configured.split(";") for name in group.rpartition("=")[2].split(","))
    return [(alias, path) for alias, _, path in (name.rpartition(":") for name in names if name)]


def _executor_names(configured: str) -> tuple[str, ...]:
    ours = [entry for entry in _entries(configured) if entry[1] in OUR_PATHS]
    return tuple(dict.fromkeys(name for entry in ours for name in entry if name))


def _other_executors(read: Reader, configured: str) -> tuple[str, ...]:
    others = tuple(alias or path for alias, path in _entries(configured) if path not in OUR_PATHS)
    if not _executor_names(configured):
        read.problem(
            "core",
            "executor",
            f"is {configured!r}, which is not the hybrid executor; set it to hybrid_executor.HybridExecutor",
        )
    elif others:
        read.problem(
            "core",
            "executor",
            f"{', '.join(others)} is configured beside the hybrid executor: its tasks are unknown to routes,"
            " limits and ledger, and each of the executors counts [core] parallelism for itself;"
            " leave hybrid_executor.HybridExecutor alone in the list",
        )
    return others


def _unknown_options(read: Reader) -> None:
    known = {option.name for option in OPTIONS}
    for option in read.options_set(SECTION):
        if option not in known:
            read.problem(
                SECTION, option, "is no option; remove it or correct its name" + _close(option, known)
            )


def _close(option: str, known: set[str]) -> str:
    near = get_close_matches(option, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""
