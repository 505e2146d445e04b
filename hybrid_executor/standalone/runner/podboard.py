"""What is known of one pod, and the telling of it: to the API as status, to people as events.

One per pod, shared by ``podworker`` and its ``containerlife``. Decides nothing;
``podstatus`` words the status and ``statuswriter`` delivers it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hybrid_executor.standalone.runner.client import Client
from hybrid_executor.standalone.runner.events import EventWriter, Kind
from hybrid_executor.standalone.runner.podstate import ContainerState, PodState, Waiting, initial
from hybrid_executor.standalone.runner.statuswriter import StatusWriter

Manifest = Mapping[str, Any]


class PodBoard:
    """The newest manifest of the pod, the state of its containers, and its annotations."""

    def __init__(self, pod: Manifest, host_ip: str, client: Client, events: EventWriter) -> None:
        self.pod = pod
        self.state: PodState = initial(pod, host_ip)
        self.annotations: dict[str, str] = {}
        self._events = events
        self._status = StatusWriter(client, lambda: self.pod)

    @property
    def name(self) -> str:
        return str(self.pod["metadata"]["name"])

    def set(self, **changes: Any) -> None:
        """Change fields of the pod's state, and publish."""
        self.state = replace(self.state, **changes)
        self.publish()

    def keep(self, **changes: Any) -> None:
        """Change fields, to be published with what comes next."""
        self.state = replace(self.state, **changes)

    def container(self, name: str) -> ContainerState:
        return self.state.containers[name]

    def put(self, name: str, container: ContainerState) -> None:
        """Keep a container's new state, to be published with the next."""
        self.state = self.state.with_container(name, container)

    def wait_as(self, name: str, waiting: Waiting) -> None:
        self.put(name, replace(self.container(name), state=waiting))

    def complain(self, message: str) -> None:
        """Say why nothing of the pod can start yet."""
        self.tell("Warning", "FailedMount", message)
        for name, container in self.state.containers.items():
            if isinstance(container.state, Waiting):
                self.wait_as(name, replace(container.state, message=message))
        self.publish()

    def publish(self) -> None:
        """Send the state as it is now; never blocks."""
        self._status.publish(self.state, self.annotations)

    def tell(self, kind: Kind, reason: str, message: str, container: str = "") -> None:
        """An event about the pod, or about one of its containers; never blocks."""
        self._events.tell(self.pod, kind, reason, message, container)

    async def flushed(self) -> None:
        """Until the API knows the newest status, or has no such pod any more."""
        await self._status.flushed()

    def close(self) -> None:
        self._status.close()
