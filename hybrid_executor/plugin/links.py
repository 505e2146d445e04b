"""What Airflow's UI gets from us: the page, a tab of each task instance, and a link to Flower.

Loaded by Airflow's plugin manager in every component that shows or runs
anything; reads two options and does nothing else. The page itself is imported
when the API server is first asked for it, never in a scheduler or a worker.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from airflow.configuration import conf
from airflow.plugins_manager import AirflowPlugin

from hybrid_executor.options import SECTION

Message = MutableMapping[str, Any]

#: Where the page is mounted.
PREFIX = "/hybrid"
#: Where in Airflow's UI, under which route, and what of the page; Airflow fills in the names.
_TABS = (
    (
        "task_instance",
        "where-and-why",
        "task?dag_id={DAG_ID}&run_id={RUN_ID}&task_id={TASK_ID}&map_index={MAP_INDEX}",
    ),
    ("dag_run", "where-and-why-run", "run?dag_id={DAG_ID}&run_id={RUN_ID}"),
    ("dag", "where-and-why-dag", "attempts?dag_id={DAG_ID}"),
    ("task", "where-and-why-task", "attempts?dag_id={DAG_ID}&task_id={TASK_ID}"),
)


def flower_link(url: str) -> list[dict[str, Any]]:
    """The external view for Flower; none where its address is not known."""
    if not url:
        return []
    return [{"name": "Flower", "href": url, "destination": "nav", "category": "browse"}]


def page_views(base_url: str) -> list[dict[str, Any]]:
    """The page in the navigation, and tabs of DAGs, runs and tasks; ``base_url`` is Airflow's own.

    Airflow finds a tab by its ``url_route`` alone, so each has one of its own.
    """
    base = urlsplit(base_url).path.rstrip("/") + PREFIX
    return [
        {
            "name": "Hybrid executor",
            "href": f"{base}/",
            "destination": "nav",
            "category": "browse",
            "url_route": "hybrid-executor",
        },
        *(
            {
                "name": "Where and why",
                "href": f"{base}/{path}",
                "destination": destination,
                "url_route": route,
            }
            for destination, route, path in _TABS
        ),
    ]


class Page:
    """The ASGI application of the page, imported at its first request."""

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Pass a request on."""
        await import_module("hybrid_executor.plugin.app").app(scope, receive, send)


class HybridExecutorPlugin(AirflowPlugin):
    """``airflow plugins`` lists it under this name."""

    name = "hybrid_executor"
    fastapi_apps = [{"app": Page(), "url_prefix": PREFIX, "name": "Hybrid executor"}]  # noqa: RUF012 - Airflow's own way
    external_views = [  # noqa: RUF012
        *page_views(conf.get("api", "base_url", fallback="")),
        *flower_link(conf.get(SECTION, "flower_url", fallback="")),
    ]
