"""The starter templates are in order as they are, and hold nothing of the metadata database."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from hybrid_executor.backends.kubernetes.podgenerator import PodMaker
from hybrid_executor.backends.kubernetes.templates import Templates
from tests.fixtures.submissions import SETTINGS, pod_submission

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "workers" / "pod_templates"
TEMPLATES = sorted(FOLDER.glob("*.yaml"))
GUIDE = ROOT / "docs" / "how-to" / "write-a-pod-template.md"


def test_there_is_one_for_each_way_to_bring_dags_and_each_kind_of_task() -> None:
    assert {path.stem for path in TEMPLATES} == {
        "dags-in-image",
        "git-sync",
        "dags-on-volume",
        "gpu",
        "spot",
        "high-memory",
        "restricted",
    }


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
class TestEach:
    def pod(self, path: Path) -> dict[str, Any]:
        return PodMaker(SETTINGS, Templates(str(path))).make(pod_submission())

    def test_is_read_as_it_is(self, path: Path) -> None:
        assert Templates(str(path)).problems_of(str(path)) == ()
        assert self.pod(path)["spec"]["containers"][0]["name"] == "base"

    def test_keeps_what_it_says(self, path: Path) -> None:
        """No key is misspelt: the Kubernetes client knows every field."""
        written = yaml.safe_load(path.read_text())
        made = PodMaker(SETTINGS, Templates()).make(pod_submission(executor_config={"pod_override": written}))
        for key in written["spec"].keys() - {"containers", "restartPolicy", "volumes"}:
            assert made["spec"][key] == written["spec"][key]
        assert [
            volume for volume in written["spec"]["volumes"] if volume not in made["spec"]["volumes"]
        ] == []

    def test_mounts_no_credentials(self, path: Path) -> None:
        spec = yaml.safe_load(path.read_text())["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert not [
            volume for volume in spec["volumes"] if {"secret", "projected", "hostPath"} & volume.keys()
        ]
        for container in (*spec["containers"], *spec.get("initContainers", [])):
            assert "envFrom" not in container
            assert all("valueFrom" not in variable for variable in container["env"])
            names = {variable["name"] for variable in container["env"]}
            assert not [
                name for name in names if "DATABASE" in name or "SQL_ALCHEMY" in name or "CONN" in name
            ]

    def test_bounds_what_each_container_takes(self, path: Path) -> None:
        spec = yaml.safe_load(path.read_text())["spec"]
        for container in (*spec["containers"], *spec.get("initContainers", [])):
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]

    def test_is_in_the_guide_and_says_what_to_change(self, path: Path) -> None:
        assert f"(../../workers/pod_templates/{path.name})" in GUIDE.read_text()
        assert path.read_text().count("# CHANGE") >= 2


def test_the_restricted_one_can_write_nowhere_but_in_its_volumes() -> None:
    spec = yaml.safe_load((FOLDER / "restricted.yaml").read_text())["spec"]
    assert spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_the_high_memory_one_gets_all_that_it_asks_for() -> None:
    spec = yaml.safe_load((FOLDER / "high-memory.yaml").read_text())["spec"]
    resources = spec["containers"][0]["resources"]
    assert resources["requests"] == resources["limits"]
