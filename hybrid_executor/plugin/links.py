"""What Airflow's UI gets from us: a link to Flower, where the administrator has said where it is.

Loaded by Airflow's plugin manager in every component that shows or runs
anything; reads one option and does nothing else.
"""

from typing import Any

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

from hybrid_executor.options import SECTION


def flower_link(url: str) -> list[dict[str, Any]]:
    """The external view for Flower; none where its address is not known."""
    if not url:
        return []
    return [{"name": "Flower", "href": url, "destination": "nav", "category": "browse"}]


class HybridExecutorPlugin(AirflowPlugin):
    """``airflow plugins`` lists it under this name."""

    name = "hybrid_executor"
    external_views = flower_link(conf.get(SECTION, "flower_url", fallback=""))
