"""Airflow's configuration as frozen values: the only reader of ``conf``.

User mistakes never raise here: a bad value falls back to its default and
becomes one line of ``Settings.problems``, which the executor logs at start
and ``airflow hybrid doctor`` reports. Only a bad routes file raises, from
``load_routing``, because no default can stand in for a route.
"""

from hybrid_executor.settings.live import load_live
from hybrid_executor.settings.load import load_settings
from hybrid_executor.settings.routes import load_routing
from hybrid_executor.settings.values import Settings
from hybrid_executor.settings.worker import WorkerSettings, load_worker

__all__ = ["Settings", "WorkerSettings", "load_live", "load_routing", "load_settings", "load_worker"]
