"""The little of Airflow's REST API that the demo and the end-to-end tests use: DAGs, runs, import errors."""

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode
from uuid import uuid4

from hybrid_executor.standalone.stack.ports import LOOPBACK

TIMEOUT_S = 30.0
TRIES = 3
FINISHED = frozenset({"success", "failed"})


class ApiRefused(Exception):
    """Airflow answered with an error; the message holds status and body."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class AirflowClient:
    """Talks to one API server as one user; asks for a token when it needs one."""

    port: int
    user: str
    password: str = field(repr=False)
    _token: str | None = field(default=None, init=False, repr=False)

    def dags(self, tag: str | None = None) -> list[str]:
        """The ids of all DAGs that are known, or of those with a tag."""
        query = {"limit": "100"} | ({"tags": tag} if tag else {})
        return sorted(dag["dag_id"] for dag in self.get("/dags", query)["dags"])

    def import_errors(self) -> dict[str, str]:
        """The last line of what each broken DAG file raised."""
        errors = self.get("/importErrors", {"limit": "100"})["import_errors"]
        return {error["filename"]: error["stack_trace"].strip().rsplit("\n", 1)[-1] for error in errors}

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run; its id, which we choose, so that a lost answer starts no second one."""
        run_id = f"demo-{uuid4().hex[:12]}"
        body = {"dag_run_id": run_id, "logical_date": None, "conf": dict(conf or {})}
        for left in reversed(range(TRIES)):
            try:
                self.call("POST", f"/dags/{quote(dag_id, safe='')}/dagRuns", body)
            except ApiRefused as refused:
                if refused.status != 409 or left == TRIES - 1:
                    raise
            except OSError:
                if not left:
                    raise
                continue
            return run_id
        raise AssertionError("unreachable")

    def run_state(self, dag_id: str, run_id: str) -> str:
        """The state of a run."""
        return str(self.get(f"/dags/{quote(dag_id, safe='')}/dagRuns/{quote(run_id, safe='')}")["state"])

    def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """GET below ``/api/v2``."""
        return self.call("GET", path + (f"?{urlencode(query)}" if query else ""))

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One request; raises OSError while the server is away, :class:`ApiRefused` if it says no."""
        if self._token is None:
            credentials = {"username": self.user, "password": self.password}
            self._token = str(self._send("POST", "/auth/token", credentials)["access_token"])
        return self._send(method, "/api/v2" + path, body, {"Authorization": f"Bearer {self._token}"})

    def _send(self, method: str, path: str, body: Any, headers: Mapping[str, str] | None = None) -> Any:
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=TIMEOUT_S)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            content = answer.read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"{method} {path}: {error!r}") from error
        finally:
            connection.close()
        if answer.status >= 400:
            text = content[:500].decode(errors="replace")
            raise ApiRefused(answer.status, f"{method} {path}: {answer.status} {text}")
        return json.loads(content) if content else None

    def wait_run(self, dag_id: str, run_id: str, deadline_s: float) -> str:
        """Poll until the run has finished, through restarts of the server; its last known state."""
        deadline = time.monotonic() + deadline_s
        state = "unknown"
        while time.monotonic() < deadline:
            try:
                state = self.run_state(dag_id, run_id)
            except OSError:
                state = "unknown"
            if state in FINISHED:
                return state
            time.sleep(0.3)
        return state
