"""Short words for what tests do with pods on a real node. Asks nothing but the API, as its admin."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.cluster.kubelet import images
from tests.cluster.plane import ControlPlane
from tests.fixtures.kube import until

Pod = dict[str, Any]
DEADLINE_S = 60.0


@dataclass(frozen=True)
class Workload:
    """What is in one namespace."""

    plane: ControlPlane
    namespace: str

    @property
    def pods(self) -> str:
        """The path of the pods."""
        return f"/api/v1/namespaces/{self.namespace}/pods"

    def pod(self, name: str, *command: str, image: str = images.TINY, **container: Any) -> Pod:
        """A pod of one container that runs once; changes to it are the caller's."""
        base: dict[str, Any] = {"name": "base", "image": image, "imagePullPolicy": "Never"}
        base |= {"command": list(command)} if command else {}
        spec = {
            "restartPolicy": "Never",
            "containers": [base | container],
            "terminationGracePeriodSeconds": 1,
        }
        return {"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}

    def run(self, name: str, *command: str, **container: Any) -> None:
        """Create such a pod."""
        self.create(self.pod(name, *command, **container))

    def create(self, pod: Pod) -> None:
        """Create a pod as it is."""
        code, answer = self.plane.request("POST", self.pods, pod)
        assert code == 201, answer

    def get(self, name: str) -> Pod:
        """A pod as the API has it."""
        code, pod = self.plane.request("GET", f"{self.pods}/{name}")
        assert code == 200, pod
        found: Pod = pod
        return found

    def container(self, name: str) -> dict[str, Any]:
        """The status of a pod's container, empty until kubelet has written one."""
        statuses = self.get(name)["status"].get("containerStatuses")
        status: dict[str, Any] = statuses[0] if statuses else {}
        return status

    def until(self, name: str, condition: Callable[[Pod], Any], what: str) -> None:
        """Poll a pod; what it was last, if it never comes true."""
        try:
            until(lambda: condition(self.get(name)), f"{name} is not {what}", DEADLINE_S)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.get(name)['status']}") from None

    def until_phase(self, name: str, *phases: str) -> None:
        """Wait until a pod is in one of these phases."""
        self.until(name, lambda pod: pod["status"].get("phase") in phases, " or ".join(phases))

    def until_ready(self, name: str) -> None:
        """Wait until a pod's container is ready."""
        self.until(name, lambda _: self.container(name).get("ready"), "ready")

    def waiting_for(self, name: str) -> str:
        """Why a pod's container does not run, in one word."""
        reason: str = self.container(name).get("state", {}).get("waiting", {}).get("reason", "")
        return reason

    def end_of(self, name: str) -> dict[str, Any]:
        """How a pod's container ended."""
        self.until_phase(name, "Succeeded", "Failed")
        end: dict[str, Any] = self.container(name)["state"]["terminated"]
        return end

    def output(self, name: str) -> str:
        """What a pod wrote, once it has succeeded."""
        end = self.end_of(name)
        said = self.kubectl("logs", name)
        assert end["exitCode"] == 0, f"{name} ended with {end}:\n{said}"
        return said

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """kubectl in this namespace."""
        return self.plane.kubectl(f"--namespace={self.namespace}", *arguments, stdin=stdin)

    def apply(self, kind: str, name: str, version: str = "v1", **more: Any) -> None:
        """Make another object of this namespace."""
        self.plane.apply(
            {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": self.namespace}}
            | more
        )

    def serve(self, name: str, *, service: bool = True, **more: Any) -> None:
        """A pod that answers over HTTP with its name, and a Service of that name."""
        script = f"mkdir /srv; echo {name} > /srv/index.html; echo starts; echo serves"
        pod = self.pod(name, "sh", "-c", f"{script}; exec httpd -f -p 8080 -h /srv")
        pod["spec"]["containers"][0]["readinessProbe"] = {
            "httpGet": {"path": "/index.html", "port": 8080},
            "periodSeconds": 1,
        }
        self.create(pod)
        if service:
            ports = [{"port": 80, "targetPort": 8080}]
            self.apply("Service", name, spec={"selector": {"app": name}, "ports": ports} | more)
        self.until_ready(name)
