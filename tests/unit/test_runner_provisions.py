"""What a runner gives to pods over time, and to whom it shows logs: against an API that is played here."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from hybrid_executor.model.errors import ApiUnavailable
from hybrid_executor.standalone.runner import plan, provisions
from hybrid_executor.standalone.runner.client import ApiRefused, Client, NotFound
from hybrid_executor.standalone.runner.environment import ConfigMissing, NodeFacts
from hybrid_executor.standalone.runner.kubeconfig import Cluster
from hybrid_executor.standalone.runner.logaccess import LogAccess, Reader, reader
from hybrid_executor.standalone.runner.node import service_environment
from hybrid_executor.standalone.runner.objects import TokenBook
from hybrid_executor.standalone.runner.provisions import Provisions
from hybrid_executor.standalone.runner.volumeplan import references
from hybrid_executor.standalone.runner.volumes import PodFolder

NODE = NodeFacts("node", "127.0.0.1")
Object = dict[str, Any]


class PlayedApi(Client):
    """Answers from functions, and counts."""

    def __init__(self, **verbs: Callable[[str, Object], Object]) -> None:
        super().__init__(Cluster("https://127.0.0.1:1", None))
        self.verbs = verbs
        self.asked: list[tuple[str, Object]] = []

    async def get(self, path: str, **parameters: str) -> Object:
        return self._answer("get", path, parameters)

    async def create(self, path: str, body: Object) -> Object:
        return self._answer("create", path, body)

    def _answer(self, verb: str, path: str, body: Any) -> Object:
        self.asked.append((path, body))
        return self.verbs[verb](path, body)


def token(life_s: float, text: str = "t") -> Object:
    expires = (datetime.now(UTC) + timedelta(seconds=life_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {"status": {"token": text, "expirationTimestamp": expires}}


def pod(*sources: Object) -> Object:
    volume = {"name": "v", "projected": {"sources": list(sources)}}
    metadata = {"name": "p", "namespace": "ns", "uid": "u"}
    return {"metadata": metadata, "spec": {"containers": [{"name": "base"}], "volumes": [volume]}}


TOKEN = {"serviceAccountToken": {"path": "token", "expirationSeconds": 600, "audience": "vault"}}


# --- tokens --------------------------------------------------------------------------------


async def test_a_token_is_asked_for_once_as_one_that_is_bound_to_its_pod() -> None:
    api = PlayedApi(create=lambda _path, _body: token(600))
    book, manifest = TokenBook(api), pod(TOKEN)
    for _ in range(3):
        assert await book.current(manifest, references(manifest)) == {("v", "token"): "t"}
    [(path, body)] = api.asked
    assert path == "/api/v1/namespaces/ns/serviceaccounts/default/token"
    assert body["spec"] == {
        "audiences": ["vault"],
        "expirationSeconds": 600,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"},
    }


async def test_a_token_that_grew_old_is_replaced() -> None:
    answers = [token(0, "old"), token(600, "new")]
    book, manifest = TokenBook(PlayedApi(create=lambda _path, _body: answers.pop(0))), pod(TOKEN)
    assert await book.current(manifest, references(manifest)) == {("v", "token"): "old"}
    assert await book.current(manifest, references(manifest)) == {("v", "token"): "new"}


async def test_a_refused_token_is_said_with_its_volume() -> None:
    def refuse(_path: str, _body: Object) -> Object:
        raise ApiRefused(403, "Forbidden", "no relationship found")

    manifest = pod(TOKEN)
    with pytest.raises(ConfigMissing, match='volume "v" : failed to fetch token: no relationship found'):
        await TokenBook(PlayedApi(create=refuse)).current(manifest, references(manifest))


# --- volumes of a running pod ------------------------------------------------------------------


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_running_pods_volumes_follow_the_api_and_survive_its_absence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provisions, "SYNC_S", 0.02)
    monkeypatch.setattr(provisions, "RETRY_S", 0.02)
    answers: list[Object | Exception] = [
        {"data": {"a": "1", "b": "1"}},
        ApiUnavailable("away"),
        NotFound(404, "NotFound", "gone"),
        {"data": {"a": "2"}},
    ]

    def get(_path: str, _parameters: Object) -> Object:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    manifest = pod({"configMap": {"name": "c"}})
    given = Provisions(
        PlayedApi(get=get), lambda: manifest, PodFolder(tmp_path, "u"), plan.NodeSettings(NODE)
    )
    await given.prepare()
    volume = tmp_path / "pods" / "u" / "volumes" / "v"
    assert (volume / "a").read_text() == (volume / "b").read_text() == "1"
    fresh = asyncio.create_task(given.keep_fresh())
    await until(lambda: (volume / "a").read_text() == "2")
    await until(lambda: not (volume / "b").exists())
    fresh.cancel()


async def test_a_file_is_replaced_whole_and_an_unchanged_one_is_not_touched(tmp_path: Path) -> None:
    values = {"a": "1", "b": "1"}
    manifest = pod({"configMap": {"name": "c"}})
    api = PlayedApi(get=lambda _path, _parameters: {"data": dict(values)})
    given = Provisions(api, lambda: manifest, PodFolder(tmp_path, "u"), plan.NodeSettings(NODE))
    await given.prepare()
    volume = tmp_path / "pods" / "u" / "volumes" / "v"
    before = {name: (volume / name).stat().st_ino for name in values}
    with (volume / "a").open() as reading:
        values["a"] = "2"
        await given.prepare()
        assert reading.read() == "1"
    after = {name: (volume / name).stat().st_ino for name in values}
    assert (volume / "a").read_text() == "2"
    assert (after["a"] != before["a"], after["b"] == before["b"]) == (True, True)


async def test_a_scratch_volume_keeps_the_mode_that_its_pod_gave_it(tmp_path: Path) -> None:
    manifest = pod()
    manifest["spec"]["volumes"] = [{"name": "v", "emptyDir": {}}]
    given = Provisions(PlayedApi(), lambda: manifest, PodFolder(tmp_path, "u"), plan.NodeSettings(NODE))
    await given.prepare()
    volume = tmp_path / "pods" / "u" / "volumes" / "v"
    assert volume.stat().st_mode & 0o777 == 0o777
    volume.chmod(0o700)
    await given.prepare()
    assert volume.stat().st_mode & 0o777 == 0o700


# --- variables, and what is not given ------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "host", "port"),
    [("https://127.0.0.1:6443", "127.0.0.1", "6443"), ("https://[::1]:6443", "::1", "6443"),
     ("https://kube.example", "kube.example", "443")],
)  # fmt: skip
def test_a_client_in_a_pod_is_sent_where_the_node_finds_the_api(server: str, host: str, port: str) -> None:
    found = service_environment(server)
    assert (found["KUBERNETES_SERVICE_HOST"], found["KUBERNETES_SERVICE_PORT"]) == (host, port)


def test_a_server_without_tls_is_none_for_clients_in_pods() -> None:
    assert service_environment("http://127.0.0.1:8001") == {}


def test_what_a_container_wishes_and_does_not_get_is_named() -> None:
    wishes = {"name": "base", "livenessProbe": {"exec": {}}, "lifecycle": {"preStop": {}}}
    token = {"name": "x", "volumeMounts": [{"name": "kube-api-access-abcde", "mountPath": "/t"}]}
    manifest = {"spec": {"containers": [wishes, token]}}
    assert {name for name, _ in plan.unheard(manifest, can_mount=True)} == {"base"}
    assert len(plan.unheard(manifest, can_mount=True)) == 2
    assert ("x", "no service-account token: this machine allows no mounts") in plan.unheard(
        manifest, can_mount=False
    )


# --- who may read logs ---------------------------------------------------------------------------

SUBJECT = ((("organizationName", "a"),), (("organizationName", "b"),), (("commonName", "it"),))


def test_a_certificate_names_a_user_and_groups() -> None:
    assert reader({"subject": SUBJECT}) == Reader("it", ("a", "b"))
    assert reader({"subject": ((("organizationName", "a"),),)}) is None


async def test_the_api_says_who_may_read_logs_and_is_asked_once() -> None:
    api = PlayedApi(create=lambda _path, body: {"status": {"allowed": body["spec"]["user"] == "it"}})
    access = LogAccess(api, "node")
    for _ in range(3):
        assert await access.allows(Reader("it", ("a",)))
        assert not await access.allows(Reader("other", ("a",)))
    assert [body["spec"]["user"] for _, body in api.asked] == ["it", "other"]
    wanted = api.asked[0][1]["spec"]
    assert wanted["groups"] == ["a"]
    assert wanted["resourceAttributes"] == {
        "verb": "get",
        "version": "v1",
        "resource": "nodes",
        "subresource": "proxy",
        "name": "node",
    }


@pytest.mark.parametrize("error", [ApiUnavailable("away"), NotFound(404, "NotFound", "no such API")])
async def test_where_the_api_cannot_be_asked_nobody_reads_logs(error: Exception) -> None:
    def fail(_path: str, _body: Object) -> Object:
        raise error

    assert not await LogAccess(PlayedApi(create=fail), "node").allows(Reader("it", ()))
