"""Pods of one namespace, as tests make, watch and read them; whatever node runs them.

Speaks to the plane as admin. Waits poll with a deadline and, when it passes,
show the last that was seen.
"""

import json
from collections.abc import Callable
from typing import Any

from tests.cluster.access import Access
from tests.cluster.servers import NotReady, until
from tests.fixtures.node import shell_pod

Pod = dict[str, Any]
ENDS = ("Succeeded", "Failed")
DEADLINE_S = 60.0


class Pods:
    """The pods of ``namespace``."""

    def __init__(self, plane: Access, namespace: str) -> None:
        self.plane, self.namespace = plane, namespace
        self._path = f"/api/v1/namespaces/{namespace}"

    def make(self, kind: str, body: dict[str, Any]) -> dict[str, Any]:
        """Create an object of a core kind, by its plural."""
        code, answer = self.plane.request("POST", f"{self._path}/{kind}", body)
        assert code == 201, answer
        return dict(answer)

    def run(self, name: str, script: str = "true", **spec: Any) -> Pod:
        """One container ``base`` that runs a shell script; see ``shell_pod``."""
        return self.make("pods", shell_pod(name, script, **spec))

    def get(self, name: str) -> Pod:
        code, answer = self.plane.request("GET", f"{self._path}/pods/{name}")
        assert code == 200, answer
        return dict(answer)

    def exists(self, name: str) -> bool:
        return self.plane.request("GET", f"{self._path}/pods/{name}")[0] == 200

    def all(self, selector: str = "") -> list[Pod]:
        """Those that a label selector finds."""
        code, answer = self.plane.request("GET", f"{self._path}/pods?labelSelector={selector}")
        assert code == 200, answer
        return list(answer["items"])

    def kubectl(self, *arguments: str, **more: Any) -> str:
        return self.plane.kubectl(*arguments, f"--namespace={self.namespace}", **more)

    # --- waits ---------------------------------------------------------------------------

    def phase(self, name: str, *phases: str, deadline_s: float = DEADLINE_S) -> Pod:
        """The pod, once it is in one of these phases."""
        return self.pod_when(name, lambda pod: pod["status"].get("phase") in phases, deadline_s)

    def ended(self, name: str, deadline_s: float = DEADLINE_S) -> Pod:
        return self.phase(name, *ENDS, deadline_s=deadline_s)

    def pod_when(self, name: str, condition: Callable[[Pod], Any], deadline_s: float = DEADLINE_S) -> Pod:
        """The pod, once the condition holds of it."""

        def look() -> Pod | None:
            pod = self.get(name)
            return pod if condition(pod) else None

        return dict(until(look, deadline_s, lambda: NotReady(json.dumps(self.get(name)["status"], indent=1))))

    def gone(self, name: str, deadline_s: float = DEADLINE_S) -> None:
        """Wait until no pod of this name is there."""
        until(lambda: not self.exists(name), deadline_s, lambda: NotReady(f"{name} is still there"))

    def until(self, condition: Callable[[], Any], message: str, deadline_s: float = DEADLINE_S) -> Any:
        return until(condition, deadline_s, lambda: NotReady(message))

    # --- words ---------------------------------------------------------------------------

    def logs(self, name: str, *options: str) -> str:
        """``kubectl logs``."""
        return self.kubectl("logs", name, *options)

    def events(self, name: str) -> dict[str, str]:
        """The last message of each reason that was given about a pod."""
        code, answer = self.plane.request("GET", f"{self._path}/events")
        assert code == 200, answer
        about = [event for event in answer["items"] if event["involvedObject"].get("name") == name]
        return {event["reason"]: event["message"] for event in about}

    def told(self, name: str, reason: str, deadline_s: float = DEADLINE_S) -> str:
        """The message of an event, once there is one of this reason."""
        return str(
            until(
                lambda: self.events(name).get(reason),
                deadline_s,
                lambda: NotReady(f"no event {reason} about {name}: {self.events(name)}"),
            )
        )
