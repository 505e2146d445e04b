"""Every server of the stack that speaks HTTP asks who is there; ``integration/stack`` has the others.

Flower's ``/metrics`` and ``/healthcheck`` are open by its own design; ``test_running`` sees that the first
shows no token.
"""

import http.client
import ssl
from urllib.parse import urlsplit

import pytest

from hybrid_executor.standalone.stack.probes import kube_get
from tests.fixtures.stack import RunningStack


def status(url: str) -> int:
    """What a stranger is answered."""
    address = urlsplit(url)
    assert address.hostname
    if address.scheme == "https":
        # The certificate is not the question here.
        unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        unverified.check_hostname = False
        unverified.verify_mode = ssl.CERT_NONE
        connection = http.client.HTTPSConnection(address.netloc, timeout=120, context=unverified)
    else:
        connection = http.client.HTTPConnection(address.netloc, timeout=120)
    try:
        connection.request("GET", f"{address.path}?{address.query}")
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/api/v2/dags", "/api/v2/connections", "/execution/variables/a"])
def test_airflow_refuses_a_stranger(stack: RunningStack, path: str) -> None:
    stack.wait_healthy()
    assert status(stack.stack.setup.airflow_url + path) in (401, 403)


@pytest.mark.parametrize("path", ["/", "/workers", "/api/workers", "/api/tasks"])
def test_flower_refuses_a_stranger(stack: RunningStack, path: str) -> None:
    stack.wait_healthy()
    assert status(stack.stack.setup.flower_url + path) == 401


def test_the_kubernetes_api_and_the_node_refuse_a_stranger(stack: RunningStack) -> None:
    stack.wait_healthy()
    assert status(f"https://127.0.0.1:{stack.stack.kube_port}/api/v1/pods") == 401
    [node] = kube_get(stack.kubeconfig, "/api/v1/nodes")["items"]
    port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
    assert status(f"https://127.0.0.1:{port}/containerLogs/default/a/base") == 401
