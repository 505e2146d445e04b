"""kubectl, as people use it on pods; apart from the rest, since it has to be built.

A module that binds it gives a fixture ``kubectl_program``: the command that starts it.
"""

import asyncio
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.contract.kube.cluster import WAIT_S, Client, pod
from tests.contract.kube.running import FOREVER, STAYS

__all__ = ["TestKubectl", "kubectl"]

#: Code, output and errors.
Said = tuple[int, str, str]


class Kubectl:
    """kubectl in the test's namespace."""

    def __init__(self, command: Sequence[str], environment: dict[str, str], namespace: str) -> None:
        self._command, self._environment = [*command, f"--namespace={namespace}"], environment

    async def run(self, *arguments: str, stdin: Any = None) -> Said:
        """Run it to its end; ``stdin`` is an object, sent as JSON."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            *arguments,
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        text = b"" if stdin is None else json.dumps(stdin).encode()
        try:
            out, errors = await asyncio.wait_for(process.communicate(text), 2 * WAIT_S)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise
        assert process.returncode is not None
        return process.returncode, out.decode(), errors.decode()

    async def __call__(self, *arguments: str, stdin: Any = None) -> str:
        """What it prints, if it succeeds."""
        code, out, errors = await self.run(*arguments, stdin=stdin)
        assert code == 0, errors
        return out


@pytest.fixture
def kubectl(client: Client, kubectl_program: Sequence[str], tmp_path: Path) -> Kubectl:
    """kubectl for the test's cluster and namespace."""
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(tmp_path),
        "KUBECONFIG": str(client.cluster.kubeconfig),
    }
    return Kubectl(kubectl_program, environment, client.namespace)


class TestKubectl:
    async def test_create_get_label_and_delete(self, kubectl: Kubectl) -> None:
        assert await kubectl("create", "-f-", stdin=pod("one")) == "pod/one created\n"
        assert await kubectl("get", "pod/one", "-oname") == "pod/one\n"
        await kubectl("label", "pod", "one", "app=a")
        await kubectl("annotate", "po", "one", "note=word")
        shown = json.loads(await kubectl("get", "pods", "-lapp=a", "-ojson"))
        assert [item["metadata"]["annotations"]["note"] for item in shown["items"]] == ["word"]
        assert await kubectl("get", "pods", "--field-selector=metadata.name=one", "--no-headers")
        assert 'pod "one" deleted' in await kubectl("delete", "pod", "one")
        code, _, errors = await kubectl.run("get", "pod", "one")
        assert (code, errors) == (1, 'Error from server (NotFound): pods "one" not found\n')

    async def test_apply_makes_changes_and_leaves_alone_what_others_set(self, kubectl: Kubectl) -> None:
        wanted = _config({"a": "1", "b": "2"})
        assert await kubectl("apply", "-f-", stdin=wanted) == "configmap/c created\n"
        assert await kubectl("apply", "-f-", stdin=wanted) == "configmap/c unchanged\n"
        await kubectl("patch", "configmap", "c", "--type=merge", '-p={"data":{"others":"3"}}')
        await kubectl("apply", "-f-", stdin=_config({"a": "changed"}))
        assert json.loads(await kubectl("get", "cm", "c", "-ojson"))["data"] == {
            "a": "changed",
            "others": "3",
        }

    @pytest.mark.parametrize(
        ("kind", "patch"),
        [
            ("strategic", '{"metadata":{"labels":{"a":"1"}}}'),
            ("merge", '{"metadata":{"labels":{"a":"1"}}}'),
            ("json", '[{"op":"add","path":"/metadata/labels/a","value":"1"}]'),
        ],
    )
    async def test_patches_of_all_kinds(
        self, client: Client, kubectl: Kubectl, kind: str, patch: str
    ) -> None:
        await client.create("one", {"app": "x"})
        await kubectl("patch", "pod", "one", f"--type={kind}", f"-p={patch}")
        assert await kubectl("get", "pod", "one", "-ojsonpath={.metadata.labels.a}") == "1"

    async def test_a_refused_object_is_shown_with_its_field(self, kubectl: Kubectl) -> None:
        code, _, errors = await kubectl.run("create", "-f-", stdin=pod("one", restartPolicy="Sometimes"))
        assert code == 1
        assert 'The Pod "one" is invalid: spec.restartPolicy: Unsupported value: "Sometimes"' in errors

    async def test_get_shows_pods_as_people_read_them(self, client: Client, kubectl: Kubectl) -> None:
        await client.run("busy", FOREVER)
        await client.phase("busy", "Running")
        shown = await kubectl("get", "pods", "-owide")
        assert re.match(r"NAME +READY +STATUS +RESTARTS +AGE +IP +NODE", shown)
        assert re.search(r"^busy +1/1 +Running +0 +\d+s +[\d.]+ +\S+", shown, re.MULTILINE)
        assert re.search(r"^\S+ +Ready", await kubectl("get", "nodes"), re.MULTILINE)

    async def test_wait_and_watch_see_a_pod_end(self, client: Client, kubectl: Kubectl) -> None:
        await client.run("one", "sleep 0.5")
        await kubectl("wait", "pod/one", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s")
        assert (await client.ok("GET", f"{client.pods}/one"))["status"]["phase"] == "Succeeded"

    async def test_describe_tells_a_pods_state_and_events(self, client: Client, kubectl: Kubectl) -> None:
        await client.run("one", "exit 3")
        await client.ended("one")
        # The scheduler and the node each tell their own.
        wanted, told = {"Scheduled", "Created", "Started"}, set[str]()
        async with asyncio.timeout(WAIT_S):
            while not wanted <= told:
                described = await kubectl("describe", "pod", "one")
                told = set(re.findall(r"Normal +(\w+)", described))
                await asyncio.sleep(0.2)
        assert re.search(r"Exit Code: +3", described)
        assert re.search(r"Status: +Failed", described)

    async def test_logs_are_cut_stamped_and_followed_to_the_end(
        self, client: Client, kubectl: Kubectl
    ) -> None:
        await client.run("talks", "for i in 1 2 3; do echo line $i; done; sleep 1; echo last")
        await client.phase("talks", "Running", "Succeeded")
        assert await kubectl("logs", "talks", "--follow") == "line 1\nline 2\nline 3\nlast\n"
        assert await kubectl("logs", "talks", "--tail=1") == "last\n"
        assert len(await kubectl("logs", "talks", "--limit-bytes=4")) == 4
        assert re.match(r"\d{4}-\d\d-\d\dT\S+Z line 1\n", await kubectl("logs", "talks", "--timestamps"))

    async def test_delete_waits_for_the_grace_and_force_does_not(
        self, client: Client, kubectl: Kubectl
    ) -> None:
        await client.run("told", f"trap 'sleep 0.3; exit 0' TERM; {STAYS}")
        await client.run("forced", f"trap '' TERM; {STAYS}")
        for name in ("told", "forced"):
            await client.phase(name, "Running")
        await kubectl("delete", "pod", "told", "--grace-period=20", "--timeout=50s")
        assert (await client.call("GET", f"{client.pods}/told"))[0] == 404
        await kubectl("delete", "pod", "forced", "--grace-period=0", "--force")
        assert (await client.call("GET", f"{client.pods}/forced"))[0] == 404

    async def test_it_finds_out_what_there_is_and_what_one_may(self, kubectl: Kubectl) -> None:
        kinds = await kubectl("api-resources", "--namespaced=true", "-oname")
        assert {"pods", "configmaps", "secrets", "events", "leases.coordination.k8s.io"} <= set(kinds.split())
        assert await kubectl("auth", "can-i", "create", "pods") == "yes\n"
        assert "Server Version: v1." in await kubectl("version")

    async def test_explicit_namespaces_and_all_of_them(self, client: Client, kubectl: Kubectl) -> None:
        await client.create("one")
        listed = await kubectl("get", "pods", "--all-namespaces", "-oname", "--chunk-size=1")
        assert "pod/one" in listed.split()


def _config(data: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data}
