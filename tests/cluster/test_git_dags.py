"""DAGs that the chart has git-sync fetch: in every component that reads them, in workers and in task pods.

With somebody's git-sync 4 alone: ``make test-cluster GIT_SYNC=/usr/local/bin/git-sync ARGS="-k git_dags"``.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.cluster.installation import EMBEDDED, LITTLE, Installation
from tests.cluster.kubelet import containerd, images
from tests.cluster.kubelet.node import KubeletNode
from tests.cluster.kubelet.workload import Workload
from tests.fixtures.helm import Helm, tools

pytestmark = pytest.mark.timeout(1200)
DAG = """\
from airflow.sdk import dag, task


@dag(schedule=None)
def {name}():
    @task
    def light():
        return 20

    @task(queue="kubernetes")
    def heavy(number):
        from parts.{name} import added

        return number + added

    heavy(light())


{name}()
"""
#: A repository whose DAGs lie in a folder of it, served without a password.
SERVE = """\
set -e
git init --quiet --initial-branch=main /srv/team.git
cd /srv/team.git
git config user.name team
git config user.email team@example.org
git commit --quiet --allow-empty --message=begin
exec git daemon --base-path=/srv --export-all --reuseaddr
"""
ADD = """\
set -e
cd /srv/team.git
mkdir -p flows/parts
printf %s "$1" >"flows/$0.py"
echo "added = 1" >"flows/parts/$0.py"
git add .
git commit --quiet --message="$0"
"""
PASSED = dict.fromkeys(("light", "heavy"), "success")


@pytest.fixture(scope="module")
def fetched(session_kubelet: KubeletNode, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Installed, with the DAG ``one`` in the repository."""
    session_kubelet.heal()
    plane, folder = session_kubelet.plane, tmp_path_factory.mktemp("fetched")
    image = images.git_sync_image(Path(os.environ["GIT_SYNC"]))
    containerd.import_images(session_kubelet.place, [image])
    name = f"git-{uuid4().hex[:8]}"
    plane.make_namespace(name)
    made = Installation(Workload(plane, name), Helm(tools(), folder, plane.admin), folder, "")
    serve(made)
    commit(made, "one")
    made.apply("install", **fetching(f"git://repository.{name}.svc/team.git"))
    yield made
    made.run("uninstall", "--wait", "--timeout=400s")
    plane.request("DELETE", f"/api/v1/namespaces/{name}")


def serve(made: Installation) -> None:
    """A team's repository, in a pod."""
    pod = made.workload.pod("repository", "sh", "-c", SERVE, image=images.GIT_SYNC)
    pod["spec"]["containers"][0]["readinessProbe"] = {"tcpSocket": {"port": 9418}, "periodSeconds": 1}
    pod["spec"]["securityContext"] = {"runAsUser": 0}
    made.workload.create(pod)
    ports = [{"name": "git", "port": 9418}]
    made.workload.apply("Service", "repository", spec={"selector": {"app": "repository"}, "ports": ports})
    made.workload.until_ready("repository")


def commit(made: Installation, name: str) -> None:
    """One more DAG, and a module that its heavy task imports."""
    made.kubectl("exec", "repository", "--", "sh", "-c", ADD, name, DAG.format(name=name))


def fetching(repository: str) -> dict[str, object]:
    """Values: DAGs from there, looked for often."""
    git = {"image": images.GIT_SYNC, "repository": repository, "period": "2s"}
    config = {
        "core": {"dags_are_paused_at_creation": False},
        "api": {"workers": 1},
        "dag_processor": {"refresh_interval": 2},
    }
    return {
        "embedded": EMBEDDED,
        "dags": {"source": "git", "folder": "flows", "git": git},
        "pods": {},
        "flower": {"enabled": False, "resources": LITTLE},
        "airflow": {"config": config},
    }


def test_tasks_of_both_kinds_run_what_is_in_the_repository_and_then_what_was_added_to_it(
    fetched: Installation,
) -> None:
    assert fetched.pass_run("one") == PASSED, fetched.describe()
    commit(fetched, "two")
    assert fetched.pass_run("two") == PASSED, fetched.describe()
