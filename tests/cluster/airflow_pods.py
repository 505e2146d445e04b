"""A stack on this machine whose pods are containers of the Airflow image on a kubelet's node.

Pods share with the workers what a deployment shares: the folder of DAGs, the one of
logs, and the one in which tasks hand on their files, mounted where the workers have
them. They reach an Execution API of their own: a second API server beside the
stack's, on the address of this machine that the node's network leads to.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from hybrid_executor.standalone.stack.environment import option
from hybrid_executor.standalone.stack.ports import choose_port
from hybrid_executor.standalone.stack.process import Command, Process
from hybrid_executor.standalone.stack.stack import PYTHON
from tests.cluster.given import given_cluster
from tests.cluster.kubelet import images
from tests.cluster.kubelet.node import KubeletNode
from tests.fixtures.stack import EXAMPLES, RunningStack, running_stack, wait_until

PING = "/execution/health/ping"
#: Of the image's user, who is in root's group, as in Airflow's own image, where this is the umask as well.
GROUP_WRITES, UMASK = 0o770, 0o002


@contextmanager
def stack_with_images(
    node: KubeletNode, folder: Path, dags: Path = EXAMPLES, more: Mapping[str, str] | None = None
) -> Iterator[RunningStack]:
    """The stack with these DAGs, and the Execution API for its pods, up; ``more`` is environment."""
    state, port = folder / "state", choose_port()
    template = folder / "pod_template.yaml"
    shared = {"task-logs": state / "task-logs", "data": state / "data"}
    for path in shared.values():
        path.mkdir(parents=True)
        path.chmod(GROUP_WRITES)
    url = f"http://{node.place.host}:{port}"
    # JSON is YAML.
    template.write_text(json.dumps(pod_template(url, dags, *shared.values())))
    extra = {option("kubernetes_executor", "pod_template_file"): str(template), **(more or {})}
    with (
        given_cluster(node.plane) as given,
        umask(UMASK),
        running_stack(state, dags, extra=extra, **given) as running,
        api_server(running, node.place.host, port),
    ):
        yield running


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """For this process, and those that it starts meanwhile."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def pod_template(url: str, dags: Path, logs: Path, data: Path) -> dict[str, Any]:
    """What a deployment writes: the image, where Airflow is, and what is shared."""
    environment = {
        option("core", "execution_api_server_url"): f"{url}/execution/",
        option("core", "dags_folder"): str(dags),
        option("core", "load_examples"): "False",
        option("logging", "base_log_folder"): str(logs),
        option("workers", "min_heartbeat_interval"): "1",
        "HYBRID_EXAMPLE_FOLDER": str(data),
    }
    mounts = {"dags": dags, "logs": logs, "data": data}
    container = {
        "name": "base",
        "image": images.AIRFLOW,
        "imagePullPolicy": "Never",
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "volumeMounts": [
            {"name": name, "mountPath": str(path), "readOnly": name == "dags"}
            for name, path in mounts.items()
        ],
    }
    volumes = [
        {"name": name, "hostPath": {"path": str(path), "type": "Directory"}} for name, path in mounts.items()
    ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "task"},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "containers": [container],
            "volumes": volumes,
        },
    }


@contextmanager
def api_server(stack: RunningStack, host: str, port: int) -> Iterator[None]:
    """One more API server of a stack, on another address."""
    name = "api-server-for-pods"
    argv = [str(PYTHON), "-m", "airflow", "api-server", "--host", host, "--port", str(port)]
    server = Process(
        Command(
            name=name,
            argv=[*argv, "--pid", str(stack.stack.setup.state / f"{name}.pid")],
            log=stack.stack.log(name),
            env=stack.env,
            cwd=stack.stack.setup.state,
        )
    )
    server.start()
    try:
        wait_until(lambda: pinged(host, port), 120, server.tail)
        yield
    finally:
        server.stop()


def pinged(host: str, port: int) -> bool:
    """Whether an Execution API answers; its first answer is slow, for it builds its routes."""
    connection = HTTPConnection(host, port, timeout=60)
    try:
        connection.request("GET", PING)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
