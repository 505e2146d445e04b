"""Every option of ``[hybrid_executor]``: its type, its default and what it means.

The one place where they are written down: ``provider`` hands them to Airflow,
``settings`` takes its defaults from here, and the reference page is generated
from what Airflow was told. Imports nothing, because Airflow loads it in every
process.
"""

from dataclasses import dataclass
from typing import Any, Literal

SECTION = "hybrid_executor"
SECTION_DESCRIPTION = """\
What the hybrid executor adds to Airflow's own options. The sections ``[celery]`` and
``[kubernetes_executor]`` keep their meaning for its two backends.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option, as Airflow's provider metadata describes it. ``default`` is text, or None for "not set"."""

    name: str
    type: Literal["string", "integer", "float", "boolean"]
    default: str | None
    description: str
    example: str | None = None
    version_added: str = "0.1.0"

    def metadata(self) -> dict[str, Any]:
        """Return the option in the form of the provider metadata."""
        return {
            "description": self.description,
            "version_added": self.version_added,
            "type": self.type,
            "example": self.example,
            "default": self.default,
        }


OPTIONS = (
    Option(
        name="kubernetes_queues",
        type="string",
        default="kubernetes",
        example="kubernetes, gpu-*",
        description="""\
Queues whose tasks run in Kubernetes pods: a list separated by commas. ``*``, ``?`` and
``[abc]`` are wildcards, and case counts. It is asked after the routes file; what neither
names goes to Celery. Replaces ``[celery_kubernetes_executor] kubernetes_queue`` of Airflow 2.
""",
    ),
    Option(
        name="deployment",
        type="string",
        default="",
        example="airflow.production",
        description="""\
What tells this Airflow's pods from those of another one in the same namespace: the label
``hybrid-executor/deployment`` of task pods and of pools' pods. Not set: a name made of the metadata
database's place, the same for all schedulers that reach it under one address. A change leaves pods that run
to nobody.
""",
    ),
    Option(
        name="routes_file",
        type="string",
        default="",
        example="/opt/airflow/routes.yaml",
        description="""\
A YAML or JSON file with routing rules, for pod templates per queue and for more than one
list can say. A relative path is relative to AIRFLOW_HOME. While the file is missing or
wrong, tasks wait with the reason RoutesInvalid. ``airflow hybrid routes`` shows and checks it.
""",
    ),
    Option(
        name="clusters_file",
        type="string",
        default="",
        example="/opt/airflow/clusters.yaml",
        description="""\
A YAML or JSON file that names further Kubernetes clusters, so that a rule of ``routes_file`` can send its
queues there: the kubeconfig and context of each, its namespace, and where its pods reach the Execution API.
A relative path is relative to AIRFLOW_HOME. Read at start; a cluster that does not answer holds up no other.
""",
    ),
    Option(
        name="pools_file",
        type="string",
        default="",
        example="/opt/airflow/pools.yaml",
        description="""\
A YAML or JSON file that names the pools of Celery workers: the queues of each, how many tasks one worker
runs at a time, and how few and many workers there may be. What scales workers needs it, and no task does.
A relative path is relative to AIRFLOW_HOME. Read at start.
""",
    ),
    Option(
        name="workers_namespace",
        type="string",
        default="",
        example="airflow",
        description="""\
The namespace of the pods of the pools' workers, where that is not the one of ``[kubernetes_executor]``. Where
there are pools, the executor watches these pods (those with the labels ``hybrid-executor/pool`` and
``hybrid-executor/deployment``), says at once which tasks a lost one had, and keeps their deletion cost.
""",
    ),
    Option(
        name="celery_parallelism",
        type="integer",
        default="0",
        example="200",
        description="""\
How many tasks of this scheduler may be at Celery at the same time, in its queues or running.
0 sets no limit but ``[core] parallelism``.
""",
    ),
    Option(
        name="kubernetes_parallelism",
        type="integer",
        default="0",
        example="50",
        description="""\
How many pods of this scheduler may exist at the same time, pending or running.
0 sets no limit but ``[core] parallelism``.
""",
    ),
    Option(
        name="held_limit",
        type="integer",
        default="1000",
        description="""\
How many tasks per backend may wait for a full or absent backend without taking up the slots
of ``[core] parallelism``. Above it, waiting tasks take slots, which slows both backends.
""",
    ),
    Option(
        name="submission_limit",
        type="integer",
        default="5",
        description="""\
How often one try of a task is sent when what carries it (a pod, a worker) dies before the task
has started. Then the try fails. None of this uses up a retry of the task.
""",
    ),
    Option(
        name="fatal_wait_s",
        type="float",
        default="0",
        example="600",
        description="""\
For how many seconds a pod may wait for what ``[kubernetes_executor]
worker_pod_pending_fatal_container_state_reasons`` calls fatal: an image that can't be pulled, a secret
that is missing. 0 gives such a pod up at once, and the next submission makes another, up to
``submission_limit``. With a limit the node goes on trying for so long, and then the try fails.
A route's own ``fatal_wait_s`` goes before it.
""",
    ),
    Option(
        name="cluster_view",
        type="boolean",
        default="False",
        description="""\
Whether the scheduler may read the nodes and the pods of the whole cluster, which takes the ClusterRole
``workers/rbac/cluster-view-clusterrole.yaml``. Then a task whose pod no present node could hold says so
at once in its event log, naming the nearest node and what it lacks, and one that waits for room says for
which. It goes on waiting either way. Nothing is read while no pod waits for a node.
""",
    ),
    Option(
        name="longest_task_s",
        type="integer",
        default="86400",
        description="""\
The longest that a task may run on a Celery worker, in seconds. A broker without acknowledgements of its
own (Redis, SQS) delivers a message again that no worker has acknowledged for so long, and a result is kept
for a day longer. To be the same for schedulers and workers; workers heed it where their settings are
``hybrid_executor.worker.celery_settings.CELERY_CONFIG``. ``[celery_broker_transport_options]
visibility_timeout`` goes before it.
""",
    ),
    Option(
        name="token_life_s",
        type="integer",
        default=None,
        example="86400",
        description="""\
Seconds for which the token that starts a task is valid after it was sent. It has to outlast the
longest wait in a Celery queue. Not set: the broker's visibility timeout
(``[celery_broker_transport_options] visibility_timeout``), or ``longest_task_s`` without one.
""",
    ),
    Option(
        name="workload_secret",
        type="boolean",
        default="True",
        description="""\
Whether a pod gets its task's token and the rest of its workload from a Secret of the pod's name,
mounted as a file, which goes when the pod goes. The scheduler's role then needs ``create`` and
``update`` on ``secrets``. False puts them into the pod's arguments, as the stock executor does, where
everybody who may read pods reads them.
""",
    ),
    Option(
        name="measure_pods",
        type="boolean",
        default="False",
        description="""\
Whether pods start tasks through this package's entry point, which leaves what the container took (memory,
processor time) in its termination message, for the ledger and ``airflow hybrid pods advise``, and says when
Airflow never answered its request to start, which then costs no retry. The images of pods must have this
package. Routes with ``retry_on`` start their pods so in any case.
""",
    ),
    Option(
        name="flower_url",
        type="string",
        default="",
        example="https://flower.example.org",
        description="""\
Where users reach the Flower dashboard. If set, Airflow's navigation has a link to it.
""",
    ),
    Option(
        name="flower_events",
        type="boolean",
        default="True",
        description="""\
Whether pods are told of as Celery events, so that Flower shows them beside Celery tasks, under the worker
``kubernetes@NAMESPACE``. One of several schedulers tells of all pods of this Airflow, from the ledger and
never in the heartbeat; another takes over within half a minute when that one dies. Nobody keeps these
events: they cost little where no Flower listens, and nothing where this is False.
""",
    ),
    Option(
        name="live_url",
        type="string",
        default="broker",
        example="rediss://airflow:password@redis:6379/0?ssl_ca_certs=/etc/ssl/redis-ca.pem",
        description="""\
Where the live half of the ledger is, in Redis or Valkey: what is in flight now, and a stream of what has
just changed, so that who waits for a task hears of its end at once. ``broker`` is the Celery broker's
server, if that is one of them, and else nothing; ``off`` does without. A URL begins with ``redis://``,
``unix://``, ``sentinel://`` (with ``?master_name=``) or ``cluster://``; with TLS ``rediss://``, ``sentinels://``
or ``clusters://``. It takes the parameters of redis-py, ``ssl_ca_certs`` among them, and an ACL user. No
task ever waits for this server, and what it loses is made anew from the metadata database.
""",
    ),
    Option(
        name="live_prefix",
        type="string",
        default="",
        example="airflow-production",
        description="""\
What the names of all keys of the live half begin with, in braces. Not set: ``hybrid-`` and a name made of
the metadata database's place, so that Airflows that share a server share no key. Set it where processes
reach the database under different host names, for whoever reads has to use the same.
""",
    ),
    Option(
        name="transitions_log",
        type="string",
        default="",
        example="stdout",
        description="""\
Where the scheduler writes one line of JSON for each step of a submission, its waits and its end included:
the path of a file, relative to AIRFLOW_HOME, or ``stdout``. ``attempt_id`` joins them with the logs of pods
and workers. The file may be moved away at any time. Not set: nowhere.
""",
    ),
    Option(
        name="reconcile_interval_s",
        type="float",
        default="10",
        description="""\
Seconds between two comparisons of what the executor believes with the metadata database; also how long
a pending pod stays of a task that was marked, cleared or deleted. It never exceeds a quarter of
``[scheduler] task_queued_timeout``.
""",
    ),
    Option(
        name="backoff_first_s",
        type="float",
        default="1",
        description="Seconds before a task that its backend could not take is offered again; then doubled.\n",
    ),
    Option(
        name="backoff_max_s",
        type="float",
        default="60",
        description="The longest time in seconds between two such offers.\n",
    ),
)


def default(name: str) -> str:
    """Return an option's default as text; empty for "not set"."""
    return next(option.default or "" for option in OPTIONS if option.name == name)
