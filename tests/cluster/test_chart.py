"""The chart before a real API server: every object of every values file, with the strictest look it has.

Pods are made in namespaces that enforce Pod Security ``restricted``: of each
template one, for a Deployment is admitted whatever its pods are like.
"""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from tests.chart.values import CI, name_of, pod_specs
from tests.cluster import build
from tests.cluster.plane import ControlPlane
from tests.fixtures.helm import Helm, Manifest

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
#: Of the Gateway API and of Prometheus' operator.
OTHERS = (
    "gateway/gateway.networking.k8s.io_httproutes",
    "prometheus/monitoring.coreos.com_servicemonitors",
    "prometheus/monitoring.coreos.com_prometheusrules",
)


@pytest.fixture(params=CI, ids=name_of)
def objects(request: pytest.FixtureRequest, helm: Helm, plane: ControlPlane) -> list[Manifest]:
    """What a release of one values file is made of, in namespaces of its own."""
    mine = f"chart-{uuid4().hex[:8]}"
    path: Path = request.param
    found = helm.objects(path, namespace=mine)
    namespaces = {one["metadata"].get("namespace") or mine for one in found} | {mine}
    plane.apply(*(_namespace(name) for name in sorted(namespaces)))
    return found


def _namespace(name: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}


@pytest.fixture
def foreign_kinds(plane: ControlPlane) -> None:
    """Those that are not Kubernetes' own; KEDA's of the version that the other tests run."""
    files = [build.keda() / "config" / "crd" / "bases", *(build.crds() / f"{name}.yaml" for name in OTHERS)]
    plane.kubectl("apply", "--server-side", "--force-conflicts", *(f"--filename={file}" for file in files))
    plane.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")


def test_the_api_server_takes_every_object(
    plane: ControlPlane, foreign_kinds: None, objects: list[Manifest]
) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": objects}
    said = plane.kubectl(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename=-"),
        stdin=json.dumps(listed),
    )
    assert len(said.splitlines()) == len(objects)


def test_pod_security_restricted_admits_every_pod(plane: ControlPlane, objects: list[Manifest]) -> None:
    # The accounts of pods are looked at as well.
    plane.apply(*(one for one in objects if one["kind"] == "ServiceAccount"))
    templates = dict(pod_specs(objects))
    (namespace,) = {one["metadata"]["namespace"] for one in objects if one["kind"] == "Deployment"}
    (task,) = (
        yaml.safe_load(one["data"]["task.yaml"]) for one in objects if "task.yaml" in one.get("data", {})
    )
    templates["task.yaml"] = task
    refused = {}
    for name, pod in templates.items():
        code, answer = plane.request("POST", f"/api/v1/namespaces/{namespace}/pods?dryRun=All", _pod(pod))
        if code != 201:
            refused[name] = answer
    assert refused == {}


def _pod(template: dict[str, Any]) -> Manifest:
    """A pod of this template, with what other controllers would have to make beforehand left out."""
    spec = {
        key: value
        for key, value in template["spec"].items()
        if key not in {"priorityClassName", "runtimeClassName", "serviceAccountName"}
    }
    metadata = {**template["metadata"], "name": "shown"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
