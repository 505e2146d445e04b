"""An admission webhook for the pods of one namespace, which answers as the test says.

The API server calls it over TLS on loopback. Used by the tests of refusals.
"""

import json
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from hybrid_executor.standalone.stack.ports import LOOPBACK
from tests.cluster.access import Access
from tests.cluster.servers import READY_S, NotReady, until

GROUP = "admissionregistration.k8s.io"


class Webhook:
    """Allows all until ``deny``; ``delay_s`` is how long each answer takes."""

    def __init__(self, plane: Access, namespace: str) -> None:
        self.name = f"{namespace}.webhook.test"
        self.delay_s = 0.0
        #: How many pods it was asked about.
        self.asked = 0
        self._plane, self._namespace = plane, namespace
        self._denial: dict[str, Any] | None = None
        pair = plane.server_certificate("webhook", [LOOPBACK])
        self._identity = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._identity.load_cert_chain(pair.certificate, pair.key)
        self._port = 0
        self.return_()

    @classmethod
    @contextmanager
    def started(cls, plane: Access, namespace: str) -> Iterator[Self]:
        """One that the API server asks about every pod that is created in the namespace."""
        hook = cls(plane, namespace)
        try:
            plane.apply(hook._configuration())
            hook._until_asked()
            yield hook
        finally:
            path = f"/apis/{GROUP}/v1/validatingwebhookconfigurations/{hook.name}"
            code, answer = plane.request("DELETE", path)
            hook.vanish()
            assert code == 200, answer

    def vanish(self) -> None:
        """Serve no more; the API server goes on asking."""
        self._server.shutdown()
        self._server.server_close()

    def return_(self) -> None:
        """Serve, on the same port as ever."""
        self._server = ThreadingHTTPServer((LOOPBACK, self._port), self._handler())
        self._port = self._server.server_port
        self._server.daemon_threads = True
        self._server.socket = self._identity.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def _until_asked(self) -> None:
        pod = {"metadata": {"name": "probe"}, "spec": {"containers": [{"name": "base", "image": "none"}]}}
        path = f"/api/v1/namespaces/{self._namespace}/pods?dryRun=All"

        def ask() -> bool:
            self._plane.request("POST", path, pod)
            return self.asked > 0

        until(ask, READY_S, lambda: NotReady("the API server does not ask the webhook"))

    def deny(self, code: int | None = None, message: str = "", reason: str = "") -> None:
        """Say no from now on; a Status without code is what the simplest webhooks send."""
        status = {"code": code, "message": message, "reason": reason}
        self._denial = {key: value for key, value in status.items() if value}

    def allow(self) -> None:
        self._denial = None

    def _configuration(self) -> dict[str, Any]:
        url = f"https://{LOOPBACK}:{self._port}/"
        return {
            "apiVersion": f"{GROUP}/v1",
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": self.name},
            "webhooks": [
                {
                    "name": self.name,
                    "clientConfig": {"url": url, "caBundle": b64encode(self._plane.ca.read_bytes()).decode()},
                    "rules": [
                        {
                            "apiGroups": [""],
                            "apiVersions": ["v1"],
                            "resources": ["pods"],
                            "operations": ["CREATE"],
                        }
                    ],
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": self._namespace}},
                    "admissionReviewVersions": ["v1"],
                    "sideEffects": "None",
                    "timeoutSeconds": 10,
                }
            ],
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                hook.asked += 1
                time.sleep(hook.delay_s)
                body = json.dumps(hook._answer(review)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                """Silent."""

        return Handler

    def _answer(self, review: dict[str, Any]) -> dict[str, Any]:
        response: dict[str, Any] = {"uid": review["request"]["uid"], "allowed": self._denial is None}
        if self._denial:
            response["status"] = self._denial
        return {"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response}
