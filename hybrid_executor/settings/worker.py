"""What the settings of Celery workers take from Airflow's configuration.

``worker.celery_settings`` calls it in each worker and scheduler, and ``load``
reads the same timeout for the life of tokens. A wrong value becomes its
default here too; the scheduler and ``airflow hybrid doctor`` say so.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow.configuration import conf as airflow_conf

from hybrid_executor.options import SECTION, default
from hybrid_executor.settings.reader import Reader

if TYPE_CHECKING:
    from airflow.configuration import AirflowConfigParser

TRANSPORT = "celery_broker_transport_options"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """Plain values."""

    longest_task_s: int
    visibility_timeout_s: int
    #: Celery's own settings, as the user wrote them; they may hold a password.
    extra: dict[str, Any] = field(repr=False)


def load_worker(conf: "AirflowConfigParser | None" = None) -> WorkerSettings:
    """Return what a worker needs; raises nothing for what a user wrote."""
    read = Reader(airflow_conf if conf is None else conf)
    return WorkerSettings(
        longest_task_s=longest_task(read),
        visibility_timeout_s=visibility_timeout(read),
        extra=read.mapping("celery", "extra_celery_config"),
    )


def longest_task(read: Reader) -> int:
    """``longest_task_s``."""
    return read.integer(SECTION, "longest_task_s", int(default("longest_task_s")), least=60)


def visibility_timeout(read: Reader) -> int:
    """After how long the broker delivers a message again that nobody acknowledged: the longest task.

    Airflow's own option counts where it is set, and is a problem where it is less.
    """
    longest_s = longest_task(read)
    timeout_s = read.integer(TRANSPORT, "visibility_timeout", longest_s, least=1)
    if timeout_s < longest_s and read.is_set(SECTION, "longest_task_s", default("longest_task_s")):
        read.problem(
            TRANSPORT,
            "visibility_timeout",
            f"is {timeout_s}, less than [{SECTION}] longest_task_s ({longest_s}), so the broker delivers the "
            "messages of long tasks a second time; remove it",
        )
    return timeout_s
