"""The Roles in ``workers/rbac`` are what the doctor and the commands ask for, and what the guide says."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.backends.kubernetes.permissions import (
    NEEDED,
    NEEDED_FOR_COMMANDS,
    NEEDED_FOR_LOGS,
    NEEDED_FOR_VIEW,
    NEEDED_FOR_WORKERS,
    Permission,
)
from hybrid_executor.doctor.kubernetes import workers_apart

ROOT = Path(__file__).parents[2]
ROLES = {"scheduler": NEEDED, "api-server": NEEDED_FOR_LOGS, "operator": NEEDED_FOR_COMMANDS}


def granted(role: str, kind_of_role: str = "Role") -> set[Permission]:
    """The rules of a Role, one by one; its apiGroup is the core one."""
    file = ROOT / "workers" / "rbac" / f"{role}-{kind_of_role.lower()}.yaml"
    [document] = yaml.safe_load_all(file.read_text())
    assert document["kind"] == kind_of_role
    found = set()
    for rule in document["rules"]:
        assert set(rule) == {"apiGroups", "resources", "verbs"}
        assert rule["apiGroups"] == [""]
        for resource in rule["resources"]:
            kind, _, sub = resource.partition("/")
            found |= {(verb, kind, sub) for verb in rule["verbs"]}
    return found


@pytest.mark.parametrize("role", ROLES)
def test_the_doctor_asks_for_what_the_role_grants(role: str) -> None:
    assert granted(role) == set(ROLES[role])


@pytest.mark.parametrize("role", ROLES)
def test_the_guide_names_the_verbs_of_the_role(role: str) -> None:
    page = (ROOT / "docs" / "how-to" / "install.md").read_text(encoding="utf-8")
    [row] = re.findall(rf"^\| \[`{role}-role\.yaml`\].*$", page, flags=re.MULTILINE)
    on_pods, on_logs, on_secrets = row.split("|")[3:6]
    said = {(verb, "pods", "") for verb in re.findall(r"`(\w+)`", on_pods)}
    said |= {(verb, "pods", "log") for verb in re.findall(r"`(\w+)`", on_logs)}
    said |= {(verb, "secrets", "") for verb in re.findall(r"`(\w+)`", on_secrets)}
    assert said == granted(role)


def test_the_view_of_the_cluster_is_a_cluster_role() -> None:
    assert granted("cluster-view", "ClusterRole") == set(NEEDED_FOR_VIEW)


@pytest.mark.parametrize(
    ("workers", "scopes", "apart"),
    [
        (None, (), None),
        ("tasks", (), None),
        ("airflow", (), "airflow"),
        ("airflow", ("tasks", "airflow"), None),
        ("airflow", (None,), None),
    ],
)
def test_the_doctor_looks_for_pools_where_it_does_not_look_for_task_pods(
    workers: str | None, scopes: tuple[str | None, ...], apart: str | None
) -> None:
    config = KubernetesConfig(namespace="tasks", scopes=scopes, workers_namespace=workers)
    assert workers_apart(config) == apart
    assert workers_apart(replace(config, cluster="east")) is None


def test_the_schedulers_role_is_enough_for_pools() -> None:
    assert granted("scheduler") >= set(NEEDED_FOR_WORKERS)
