"""Values files that reach every branch of the chart, and the least that a release can be made of."""

from pathlib import Path
from typing import Any

from tests.fixtures.helm import CHART, Manifest

CI = sorted((CHART / "ci").glob("*-values.yaml"))

#: The least: where database and broker are.
LEAST: dict[str, Any] = {
    "database": {"secret": {"name": "database"}},
    "broker": {"secret": {"name": "broker"}},
}


def one(objects: list[Manifest], kind: str, name: str) -> Manifest:
    """The object of this kind and name."""
    (found,) = (each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name)
    return found


def name_of(path: Path) -> str:
    """For a test's id."""
    return path.name.removesuffix("-values.yaml")


def pod_specs(objects: list[Manifest]) -> dict[str, dict[str, Any]]:
    """Every pod that a release makes, by kind and name of what makes it."""
    return {
        f"{each['kind']}/{each['metadata']['name']}": each["spec"]["template"]
        for each in objects
        if each["kind"] in {"Deployment", "Job", "StatefulSet"}
    }
