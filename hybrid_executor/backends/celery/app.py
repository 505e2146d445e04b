"""The door to the Celery provider: its app and its task, with every ``[celery]`` option's own meaning.

The only module of this backend that knows Airflow. Importing it imports
nothing of Airflow or Celery; ``provider_app`` does, which takes a second or
two, so it is called by the backend's ``start`` and not before.
"""

from typing import Any

from hybrid_executor.model.errors import ConfigError

#: The task that a stock ``airflow celery worker`` registers and runs; it takes the workload's JSON.
TASK_NAME = "execute_workload"


def provider_app() -> Any:
    """The Celery app that ``airflow celery worker`` and ``airflow celery flower`` use; opens nothing.

    One per process. Raises ``ConfigError`` where Airflow's Celery options make no app.
    """
    try:
        from airflow.providers.celery.executors.celery_executor_utils import app  # noqa: PLC0415

        app.finalize()
    except (ImportError, ValueError, TypeError, RuntimeError, LookupError) as error:
        raise ConfigError([f"[celery]: the Celery provider's app can't be made: {error}"]) from error
    return app
