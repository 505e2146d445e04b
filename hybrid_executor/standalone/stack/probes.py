"""Whether a service is up: quick looks that never raise, called at every tick until they say yes."""

import http.client
import json
import ssl
from base64 import b64decode
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import celery
import kombu.exceptions
import redis
import sqlalchemy as sa

from hybrid_executor.standalone.stack.ports import LOOPBACK, accepts

PROBE_S = 1.0
PING_S = 0.2


def listens(port: int) -> Callable[[float], bool]:
    """Ready when something accepts connections."""
    return lambda _since: accepts(port)


def serves(port: int, path: str) -> Callable[[float], bool]:
    """Ready when an HTTP GET is answered with 200."""

    def ready(_since: float) -> bool:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=PROBE_S)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return ready


def job_beats(engine: sa.Engine, job_type: str) -> Callable[[float], bool]:
    """Ready when an Airflow job of this type has begun since the process was started."""
    query = sa.text(
        "SELECT 1 FROM job WHERE job_type = :type AND state = 'running'"
        " AND start_date >= to_timestamp(:since)"
    )

    def ready(since: float) -> bool:
        try:
            with engine.connect() as connection:
                return connection.scalar(query, {"type": job_type, "since": since}) is not None
        except sa.exc.DBAPIError:
            return False

    return ready


def worker_answers(url: str) -> Callable[[float], bool]:
    """Ready when a Celery worker answers a ping, which it can once it has set up everything else."""
    app = celery.Celery(broker=url)

    def ready(_since: float) -> bool:
        try:
            return bool(app.control.ping(timeout=PING_S, limit=1))
        except (kombu.exceptions.OperationalError, redis.RedisError, OSError):
            return False

    return ready


def kubernetes_answers(kubeconfig: Path) -> Callable[[float], bool]:
    """Ready when the API that this kubeconfig names answers."""

    def ready(_since: float) -> bool:
        try:
            kube_get(kubeconfig, "/api")
        except (OSError, http.client.HTTPException, ValueError):
            return False
        return True

    return ready


def node_is_ready(kubeconfig: Path, name: str) -> Callable[[float], bool]:
    """Ready when a node says so, and has renewed its lease since the process was started."""
    node_path = f"/api/v1/nodes/{name}"
    lease_path = f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{name}"

    def ready(since: float) -> bool:
        try:
            conditions = kube_get(kubeconfig, node_path)["status"]["conditions"]
            renewed = datetime.fromisoformat(kube_get(kubeconfig, lease_path)["spec"]["renewTime"])
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            return False
        is_up = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
        return is_up and renewed.timestamp() >= since

    return ready


def kube_get(kubeconfig: Path, path: str) -> Any:
    """GET from the embedded Kubernetes API with its own kubeconfig."""
    config = json.loads(kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    authority = b64decode(cluster["certificate-authority-data"]).decode()
    address = urlsplit(cluster["server"])
    connection = http.client.HTTPSConnection(
        address.netloc, timeout=PROBE_S, context=ssl.create_default_context(cadata=authority)
    )
    try:
        connection.request(
            "GET", path, headers={"Authorization": f"Bearer {config['users'][0]['user']['token']}"}
        )
        answer = connection.getresponse()
        if answer.status != 200:
            raise ValueError(f"{path} answers {answer.status}")
        return json.loads(answer.read())
    finally:
        connection.close()
