"""The settings of a Celery worker, each with its reason: ``CELERY_CONFIG``, a dictionary as Celery takes it.

Named by ``[celery] celery_config_options = hybrid_executor.worker.celery_settings.CELERY_CONFIG``
in workers and in the scheduler, which share one Celery app by it; our image,
chart, compose file and demo do so. It begins with what the Celery provider
makes of Airflow's own options, and adds what those have no word for. Whatever
``[celery] extra_celery_config`` names counts over this module; its ``imports``
come on top.

Left to Airflow's options, because their defaults are what the executor wants:

- ``[celery] task_acks_late`` (True): a message is acknowledged when its task has
  ended, so a message without a worker is a message that can be found.
- ``[celery] worker_prefetch_multiplier`` (1): a worker holds no message that it
  can't run at once. Whatever it held besides would wait for it while others
  are idle, and would be lost to them while it drains.
- ``[celery] task_track_started`` (True): tells an attempt that runs from one that
  waits, which decides whether its end uses up a retry.
- ``[celery] worker_enable_remote_control`` (True): an idle worker is told to
  reconnect, and one that leaves to drain, by control commands.

Decides nothing at run time and opens nothing. A stock worker works without it.
"""

from collections.abc import Mapping
from typing import Any

from airflow.providers.celery.executors.default_celery import DEFAULT_CELERY_CONFIG

from hybrid_executor.settings import WorkerSettings, load_worker

#: What a worker of ours can besides, each for a reason that stands in its module.
IMPORTS = (
    "hybrid_executor.worker.reconnect",
    "hybrid_executor.worker.claim",
    "hybrid_executor.worker.draining",
    "hybrid_executor.worker.withholding",
)
#: For how long a result outlives the longest task: a day in which no scheduler lives. Celery's own default.
UNREAD_S = 86400


def celery_config(provider: Mapping[str, Any], worker: WorkerSettings) -> dict[str, Any]:
    """The provider's settings with ours, and over both what the user has set besides."""
    config = {**provider, **own_settings(worker.longest_task_s), **worker.extra}
    given = worker.extra.get("imports", ())
    config["imports"] = [*IMPORTS, *([given] if isinstance(given, str) else given)]
    transport = config["broker_transport_options"]
    if "visibility_timeout" in transport:
        # A message that nobody has acknowledged for so long goes to another worker, although its task may
        # still run. Airflow refuses the second start, but a worker's slot and a look into its log are lost.
        config["broker_transport_options"] = {**transport, "visibility_timeout": worker.visibility_timeout_s}
    return config


def own_settings(longest_task_s: int) -> dict[str, Any]:
    """What Airflow has no option for."""
    return {
        # Flower, and whoever else follows events, is empty without them: Celery's default is off. One small
        # message for each change of a task, on a channel that nobody keeps.
        "worker_send_task_events": True,
        # So that a task is seen, with its queue, from when it was sent and not from when a worker took it.
        "task_send_sent_event": True,
        # Celery forgets a result after this time, counted anew from each: the mark that a task has started
        # must last for as long as the task, and its end until a scheduler has read it.
        "result_expires": longest_task_s + UNREAD_S,
        # A task that ends well while the result store is away would be stored as a failure: storing raises,
        # and Celery takes that for the task's. The pauses in between stay Celery's, at most 10 s.
        "result_backend_always_retry": True,
        # Arguments hold the task's token; with this they would be stored with each result. Celery's default.
        "result_extended": False,
        # The default gives up after 100 tries, 46 minutes with Celery's pauses of 2 to 30 s, and the worker
        # ends with all that it runs.
        "broker_connection_max_retries": None,
        # A Redis that fails over answers READONLY or UNBLOCKED, an error in a good connection. By default a
        # worker ends at the first; so it reconnects, to the new master where Sentinels name one.
        "broker_channel_error_retry": True,
        # A task tells Airflow how it ended, not the broker, so a lost connection is no reason to kill it.
        # Celery 6 will change this default.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        # A worker process that was killed has to be told as such: the executor sends again what had not
        # started, under a name of its own. A requeued message would be a second start under the old one.
        "task_reject_on_worker_lost": False,
    }


CELERY_CONFIG = celery_config(DEFAULT_CELERY_CONFIG, load_worker())
