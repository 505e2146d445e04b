"""Whether a service is up: quick looks that never raise, called at every tick until they say yes."""

import http.client
import json
import ssl
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
import sqlalchemy as sa

from hybrid_executor.standalone.stack.ports import LOOPBACK, accepts

#: What Celery calls the channel of its remote control in database 0.
PIDBOX = "/0.celery.pidbox"
PROBE_S = 1.0


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


def worker_listens(url: str) -> Callable[[float], bool]:
    """Ready when a Celery worker takes remote control, the last thing that it sets up."""

    def ready(_since: float) -> bool:
        try:
            with redis.Redis.from_url(url, socket_timeout=PROBE_S) as client:
                return bool(client.pubsub_numpat()) or bool(client.pubsub_numsub(PIDBOX)[0][1])
        except redis.RedisError:
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


def node_is_ready(kubeconfig: Path) -> Callable[[float], bool]:
    """Ready when the embedded API holds a node whose condition Ready is True."""

    def ready(_since: float) -> bool:
        try:
            nodes = kube_get(kubeconfig, "/api/v1/nodes")["items"]
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            return False
        conditions = [one for node in nodes for one in node.get("status", {}).get("conditions", ())]
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

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
