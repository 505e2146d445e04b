"""What every way to install the chart has in common. Rendered once for each values file of helm/ci."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from helm.generate_values import generated, read_source
from hybrid_executor.version import __version__
from tests.chart.values import CI, LEAST, name_of, pod_specs
from tests.fixtures.helm import CHART, ROOT, Helm, Manifest, tools

#: Kinds that are not Kubernetes' own; tests/cluster/test_chart.py shows them to a real API server.
FOREIGN = {"HTTPRoute", "PrometheusRule", "ScaledObject", "ServiceMonitor", "TriggerAuthentication"}
#: Values that no template looks into.
WITHOUT_BRANCH = {"global"}
VERSIONS = ("1.31", "1.34", "1.37")


@pytest.fixture(params=CI, ids=name_of)
def values(request: pytest.FixtureRequest) -> Path:
    """One values file after the other."""
    path: Path = request.param
    return path


@pytest.fixture
def objects(helm: Helm, values: Path) -> list[Manifest]:
    """Its objects."""
    return rendered(helm, values)


@cache
def rendered(helm: Helm, values: Path) -> list[Manifest]:
    return helm.objects(values)


def test_helm_finds_nothing_to_complain_about(helm: Helm, values: Path) -> None:
    assert "1 chart(s) linted, 0 chart(s) failed" in helm.run(
        "lint", "--strict", str(CHART), f"--values={values}"
    )


def test_two_renders_are_the_same_to_the_byte(helm: Helm, values: Path) -> None:
    assert helm.text(values) == helm.text(values)


def test_an_upgrade_renders_as_an_installation_does(helm: Helm, values: Path) -> None:
    """No key is made while rendering, and nothing is named by a revision: Argo CD and Flux only render."""
    assert helm.text(values) == helm.text(values, options=["--is-upgrade"])


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field(objects: list[Manifest], version: str, tmp_path: Path) -> None:
    known = [one for one in objects if one["kind"] not in FOREIGN]
    if version < "1.35":
        known = [_without_tolerance(one) for one in known]
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump_all(known))
    command = [sys.executable, "-m", "kubernetes_validate", "--strict", "--quiet", "-k", version, str(file)]
    done = subprocess.run(
        command, env={"PYTHONPATH": str(tools() / "lib")}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _without_tolerance(one: Manifest) -> Manifest:
    """Before 1.35 the API server drops the field; docs/how-to/install-with-helm.md says what follows."""
    if one["kind"] != "HorizontalPodAutoscaler":
        return one
    copy: Manifest = json.loads(json.dumps(one))
    for rules in copy["spec"]["behavior"].values():
        rules.pop("tolerance", None)
    return copy


def test_no_two_objects_have_one_name(objects: list[Manifest]) -> None:
    names = [(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in objects]
    assert len(names) == len(set(names))


def test_every_object_but_a_cluster_role_says_its_namespace_and_whose_it_is(objects: list[Manifest]) -> None:
    for one in objects:
        assert one["metadata"]["labels"]["app.kubernetes.io/instance"] == "airflow"
        assert ("namespace" in one["metadata"]) != one["kind"].startswith("ClusterRole")


def test_nothing_of_a_version_is_in_a_selector(objects: list[Manifest]) -> None:
    for one in objects:
        if one["kind"] == "Deployment":
            wanted = one["spec"]["selector"]["matchLabels"]
            assert set(wanted) <= {
                "app.kubernetes.io/name",
                "app.kubernetes.io/instance",
                "app.kubernetes.io/component",
                "hybrid-executor/pool",
            }
            labels = one["spec"]["template"]["metadata"]["labels"]
            assert wanted.items() <= labels.items()


def test_no_two_deployments_select_the_same_pods(objects: list[Manifest]) -> None:
    chosen = [
        tuple(sorted(o["spec"]["selector"]["matchLabels"].items()))
        for o in objects
        if o["kind"] == "Deployment"
    ]
    assert len(chosen) == len(set(chosen))


def containers(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from spec.get("initContainers", [])
    yield from spec["containers"]


def test_no_container_has_more_rights_than_pod_security_restricted_allows(objects: list[Manifest]) -> None:
    """A container that can write its root file system is none of ours either."""
    pods = [pod["spec"] for pod in pod_specs(objects).values()]
    pods.append(yaml.safe_load(_data(objects, "pod-templates")["task.yaml"])["spec"])
    for spec in pods:
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in containers(spec):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }


def test_whoever_runs_tasks_has_neither_database_nor_keys(objects: list[Manifest]) -> None:
    of_airflow = {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
        "AIRFLOW__CORE__FERNET_KEY",
        "AIRFLOW__API_AUTH__JWT_SECRET",
    }
    workers = [pod["spec"] for name, pod in pod_specs(objects).items() if "-worker-" in name]
    task = yaml.safe_load(_data(objects, "pod-templates")["task.yaml"])["spec"]
    for spec in [*workers, task]:
        assert "migration" not in str(spec)
        # A worker that serves logs has to know who asks; a pod's log is Kubernetes' to serve.
        forbidden = of_airflow | ({"AIRFLOW__API__SECRET_KEY"} if spec is task else set())
        for container in containers(spec):
            assert not {variable["name"] for variable in container.get("env", [])} & forbidden
            for source in container.get("envFrom", []):
                assert source.get("configMapRef", {}).get("name", "-config-tasks").endswith(
                    "-config-tasks"
                ) or ("secretRef" in source)


def test_only_a_secret_holds_a_secret(objects: list[Manifest]) -> None:
    assert not [one for one in objects if one["kind"] == "Secret"]
    for one in objects:
        if one["kind"] == "ConfigMap":
            assert not [key for key in one["data"] if key.endswith(("_KEY", "_SECRET", "_CONN", "_URL_CMD"))]


def test_nothing_is_a_hook(objects: list[Manifest]) -> None:
    """A hook after the installation waits, with --wait, for pods that wait for it."""
    for one in objects:
        assert "helm.sh/hook" not in str(one["metadata"].get("annotations"))


def test_every_variable_is_an_option_that_airflow_or_the_product_has(objects: list[Manifest]) -> None:
    from airflow.configuration import conf

    from hybrid_executor.options import OPTIONS

    known = {
        f"AIRFLOW__{section}__{option}".upper().replace(".", "_").replace("-", "_")
        for section, options in conf.configuration_description.items()
        for option in options["options"]
    }
    known |= {f"AIRFLOW__HYBRID_EXECUTOR__{option.name}".upper() for option in OPTIONS}
    for one in objects:
        if one["kind"] == "ConfigMap" and "config" in one["metadata"]["name"]:
            assert {name for name in one["data"] if name.startswith("AIRFLOW__")} <= known


def test_what_is_mounted_is_there(objects: list[Manifest]) -> None:
    maps = {one["metadata"]["name"] for one in objects if one["kind"] == "ConfigMap"}
    for name, pod in pod_specs(objects).items():
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", [])}
        for container in containers(pod["spec"]):
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes, name
            for source in container.get("envFrom", []):
                assert "configMapRef" not in source or source["configMapRef"]["name"] in maps


def _data(objects: list[Manifest], name: str) -> dict[str, str]:
    (found,) = (
        one["data"]
        for one in objects
        if one["kind"] == "ConfigMap" and one["metadata"]["name"].endswith(f"-{name}")
    )
    return dict(found)


def test_together_the_values_files_reach_every_template(helm: Helm) -> None:
    reached = {
        line.removeprefix("# Source: hybrid-executor/")
        for file in CI
        for line in helm.text(file).splitlines()
        if line.startswith("# Source: ")
    }
    assert reached == {str(path.relative_to(CHART)) for path in (CHART / "templates").rglob("*.yaml")}


def test_together_the_values_files_set_every_value() -> None:
    given = [yaml.safe_load(file.read_text()) for file in CI]
    given += [{"poolDefaults": pool} for one in given for pool in one.get("pools", {}).values()]
    unset = [
        path
        for path in _leaves(read_source())
        if path not in WITHOUT_BRANCH and not any(_has(one, path.split(".")) for one in given)
    ]
    assert unset == []


def _leaves(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, part in schema["properties"].items():
        where = f"{path}.{name}" if path else name
        if "default" in part:
            yield where
        else:
            yield from _leaves(part, where)


def _has(given: Any, path: list[str]) -> bool:
    for name in path:
        if not isinstance(given, dict) or name not in given:
            return False
        given = given[name]
    return True


def test_what_is_generated_is_current() -> None:
    stale = [path.name for path, text in generated().items() if path.read_text() != text]
    assert stale == [], "run: .venv/bin/python helm/generate_values.py"


def test_chart_and_package_are_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (__version__, __version__)


def test_what_is_packaged_renders_as_the_folder_does(helm: Helm, tmp_path: Path) -> None:
    helm.run("package", str(CHART), f"--destination={tmp_path}")
    (package,) = tmp_path.glob("*.tgz")
    assert package.name == f"hybrid-executor-{__version__}.tgz"
    assert helm.text(values=LEAST, chart=package) == helm.text(values=LEAST)


def test_a_chart_that_has_this_one_as_a_part_may_have_globals(helm: Helm) -> None:
    assert helm.objects(values=LEAST | {"global": {"region": "eu"}})


def test_roles_are_those_that_were_found_by_running(helm: Helm) -> None:
    given = {}
    for one in helm.objects(ROOT / "helm/ci/namespaces-values.yaml") + helm.objects(
        ROOT / "helm/ci/production-values.yaml"
    ):
        if one["kind"] in {"Role", "ClusterRole"}:
            given[one["metadata"]["name"].split("-", 1)[1]] = one["rules"]
    for file, name in (
        ("scheduler-role", "scheduler"),
        ("pools-role", "pools"),
        ("api-server-role", "api-server"),
        ("pod-starter-role", "pod-starter"),
        ("cluster-view-clusterrole", "cluster-view"),
    ):
        wanted = yaml.safe_load((ROOT / "workers" / "rbac" / f"{file}.yaml").read_text())
        assert given[name] == wanted["rules"], name


def test_no_template_asks_a_cluster_a_clock_or_a_die() -> None:
    forbidden = (
        "lookup ",
        "rand",
        "genCA",
        "genSelfSigned",
        "genPrivateKey",
        "genSignedCert",
        "uuidv4",
        " now",
    )
    for path in (CHART / "templates").rglob("*.*"):
        text = re.sub(r"\{\{-? */\*.*?\*/ *-?\}\}", "", path.read_text(), flags=re.DOTALL)
        actions = re.findall(r"\{\{.*?\}\}", text, flags=re.DOTALL)
        said = [word for word in (*forbidden, ".Release.Revision") for action in actions if word in action]
        assert said == [], path


def test_alembic_reads_our_file_in_every_locale() -> None:
    """It reads in the encoding of the locale: an image without a UTF-8 one could not migrate."""
    assert (ROOT / "hybrid_executor" / "ledger" / "alembic.ini").read_text(encoding="utf-8").isascii()
