"""One Airflow executor with two backends: Celery workers and Kubernetes pods.

``HybridExecutor`` is looked up lazily, so that importing a pure module
(``hybrid_executor.routing``, ``hybrid_executor.naming``) pulls in neither
Airflow nor a client library.
"""

from typing import TYPE_CHECKING, Any

from hybrid_executor.version import __version__

if TYPE_CHECKING:
    from hybrid_executor.executor import HybridExecutor

__all__ = ["HybridExecutor", "__version__"]


def __getattr__(name: str) -> Any:
    if name == "HybridExecutor":
        from hybrid_executor.executor import HybridExecutor  # noqa: PLC0415

        return HybridExecutor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
