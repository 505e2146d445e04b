"""What an API server wrote of the requests that it had: who asked for what, and whether they were let."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Asked = tuple[str, str, str]


class Audit:
    """Requests about these resources, subresources with them; ``flags`` are for the API server."""

    def __init__(self, folder: Path, resources: Sequence[str]) -> None:
        self.log = folder / "audit.log"
        policy = folder / "audit-policy.yaml"
        # JSON is YAML.
        policy.write_text(json.dumps(_policy(resources)))
        self.flags = [f"--audit-policy-file={policy}", f"--audit-log-path={self.log}"]

    def of(self, user: str) -> list[dict[str, Any]]:
        events = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [event for event in events if event["user"]["username"] == user]

    def used(self, user: str) -> set[Asked]:
        """Each verb, resource and subresource that was allowed."""
        return {asked(event) for event in self.of(user) if decision(event) == "allow"}

    def denied(self, user: str) -> set[Asked]:
        return {asked(event) for event in self.of(user) if decision(event) != "allow"}


def _policy(resources: Sequence[str]) -> dict[str, Any]:
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata", "resources": [{"group": "", "resources": list(resources)}]}],
    }


def asked(event: dict[str, Any]) -> Asked:
    about = event["objectRef"]
    return event["verb"], about["resource"], about.get("subresource", "")


def decision(event: dict[str, Any]) -> str:
    return str(event["annotations"]["authorization.k8s.io/decision"])
