"""The images of a node. None comes from a registry, and none can be pulled: they are built and imported.

Tests name them by the constants here. ``python -m tests.cluster.kubelet`` builds
them, and a node imports them at its start.
"""

from pathlib import Path

from tests.cluster import build
from tests.cluster.kubelet import layers
from tests.cluster.kubelet.oci import Image

#: A name that no resolver knows (RFC 6761).
REGISTRY = "images.test"
PAUSE = f"{REGISTRY}/pause:1"
#: A shell, wget, httpd, nslookup and the like.
TINY = f"{REGISTRY}/tiny:1"
#: The distribution's Python.
PYTHON = f"{REGISTRY}/python:1"
#: What requirements.lock pins, on that Python.
DEPENDENCIES = f"{REGISTRY}/dependencies:1"
#: Airflow and this project, run by user 50000 as in Airflow's own image.
AIRFLOW = f"{REGISTRY}/airflow:1"
DNS = f"{REGISTRY}/dns:1"
#: In place of the public images that the chart embeds for a trial, of the same versions: the demo's servers,
#: and as much of the public images' entrypoints as the chart relies on.
POSTGRESQL = f"{REGISTRY}/postgres:18"
VALKEY = f"{REGISTRY}/valkey:9.1"
#: Somebody's git-sync (``GIT_SYNC``), with the distribution's git.
GIT_SYNC = f"{REGISTRY}/git-sync:4"

DNS_MODULE = build.GoModule(build.HERE / "dns", {"dns": "."}, 2)
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Holds the namespaces of a pod, and collects its orphans.
HOLD = 'trap "exit 0" TERM INT; while :; do sleep 86400 & wait $!; done'


def tiny_images() -> list[Image]:
    """What every node has."""
    tiny = layers.tiny()
    dns = layers.program_layer("dns", build.built(DNS_MODULE) / "dns")
    environment = {"PATH": "/bin"}
    return [
        Image(PAUSE, [tiny], entrypoint=["/bin/sh", "-c", HOLD], environment=environment, user="65534:65534"),
        Image(TINY, [tiny], command=["sh"], environment=environment),
        Image(DNS, [dns], entrypoint=["/dns"]),
    ]


def python_images() -> list[Image]:
    """The distribution's Python, and the dependencies on top of it."""
    base = layers.base()
    environment = {"PATH": SYSTEM_PATH, "LANG": "C.UTF-8"}
    return [
        Image(PYTHON, [base], command=["python3"], environment=environment),
        Image(DEPENDENCIES, [base, layers.dependencies(base)], environment=environment),
    ]


def airflow_image() -> Image:
    """Airflow, with this project as it is now."""
    base = layers.base()
    return Image(
        AIRFLOW,
        [base, layers.dependencies(base), layers.project(base)],
        entrypoint=["/usr/bin/dumb-init", "--"],
        command=["airflow", "version"],
        environment={
            "PATH": f"/opt/venv/bin:{SYSTEM_PATH}",
            "LANG": "C.UTF-8",
            "HOME": "/home/airflow",
            "AIRFLOW_HOME": "/opt/airflow",
            "PYTHONUNBUFFERED": "1",
        },
        user=str(layers.AIRFLOW_USER),
        folder="/opt/airflow",
    )


def trial_images() -> list[Image]:
    """The servers that the chart embeds."""
    base = layers.base()
    stack = [base, layers.dependencies(base), layers.trial_servers()]
    # The base has no other locale.
    environment = {"PATH": SYSTEM_PATH, "LANG": "C"}
    return [
        Image(
            POSTGRESQL,
            stack,
            entrypoint=["docker-entrypoint.sh"],
            command=["postgres"],
            environment=environment | {"PGDATA": "/var/lib/postgresql/18/docker"},
            stop_signal="SIGINT",
        ),
        Image(VALKEY, stack, command=["valkey-server"], environment=environment, folder="/data"),
    ]


def git_sync_image(program: Path) -> Image:
    """As the public image: git, and the program as the entrypoint; pods bring the folders that it writes."""
    return Image(
        GIT_SYNC,
        [layers.git(), layers.git_sync(program)],
        entrypoint=["/git-sync"],
        environment={"PATH": SYSTEM_PATH},
        user="65533:65533",
    )


def build_all() -> list[Image]:
    """All images; what is in the cache is not built again."""
    return [*tiny_images(), *python_images(), airflow_image(), *trial_images()]
