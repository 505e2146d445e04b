"""What ``hybrid_executor.standalone.limits`` lists is refused in its words by some, and served by others."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import aiohttp
import pytest

from hybrid_executor.standalone import limits
from tests.contract.kube.cluster import STRATEGIC, WAIT_S, Client

#: Whether it worked, and what was said.
Outcome = tuple[bool, str]
Attempt = Callable[[Client], Awaitable[Outcome]]

TALKS = "while :; do echo word; sleep 0.2; done"
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "aHlicmlkLWV4ZWN1dG9yIQ==",
    "Sec-WebSocket-Protocol": "v5.channel.k8s.io, v4.channel.k8s.io",
}
CHANNELS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
STATUS_CHANNEL = 3

BY_NAME = {limit.name: limit for limit in limits.ALL}
YAML = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\n"


class TestLimits:
    @pytest.mark.parametrize("name", BY_NAME)
    async def test_what_is_listed_is_refused_by_whom_it_says_and_served_by_others(
        self, client: Client, name: str
    ) -> None:
        works, said = await ATTEMPTS[name](client)
        words = client.cluster.limits.get(name)
        assert works == (words is None), said
        assert (words or "") in said

    async def test_the_list_is_whole(self, client: Client) -> None:
        """Whatever the server refuses as a thing of the list is asked for above."""
        assert ATTEMPTS.keys() == BY_NAME.keys()
        assert client.cluster.limits.keys() <= BY_NAME.keys()


async def _outcome(client: Client, method: str, path: str, *args: Any, **query: Any) -> Outcome:
    status, body = await client.call(method, path, *args, **query)
    return status in {200, 201, 202}, str(body)


def _listing(place: tuple[str, str]) -> Attempt:
    group, plural = place
    version = "v2" if group == "autoscaling" else "v1"
    path = f"/apis/{group}/{version}/{plural}" if group else f"/api/v1/{plural}"
    return lambda client: _outcome(client, "GET", path, limit="1")


def _review(group: str, plural: str, spec: Mapping[str, Any], *, namespaced: bool = False) -> Attempt:
    async def attempt(client: Client) -> Outcome:
        home = f"namespaces/{client.namespace}/" if namespaced else ""
        body = {"spec": json.loads(json.dumps(spec).replace("SPACE", client.namespace))}
        return await _outcome(client, "POST", f"/apis/{group}.k8s.io/v1/{home}{plural}", body)

    return attempt


async def _stream(client: Client, what: str, query: str) -> Outcome:
    """A WebSocket to a pod that runs, up to the first that is said in it."""
    await client.run("one", TALKS)
    await client.phase("one", "Running")
    url = f"{client.url}{client.pods}/one/{what}?{query}"
    async with client.session.get(url, headers=UPGRADE) as answer:
        if answer.status != 101:
            return False, await answer.text()
    async with client.session.ws_connect(url, protocols=CHANNELS) as socket:
        while True:
            message = await socket.receive(timeout=WAIT_S)
            assert message.type is aiohttp.WSMsgType.BINARY, message
            channel, text = message.data[0], message.data[1:].decode(errors="replace")
            if channel == STATUS_CHANNEL:
                return json.loads(text)["status"] == "Success", text
            if text:
                return True, text


async def _exec(client: Client) -> Outcome:
    return await _stream(client, "exec", "container=base&stdout=true&command=echo&command=word")


async def _attach(client: Client) -> Outcome:
    return await _stream(client, "attach", "container=base&stdout=true")


async def _portforward(client: Client) -> Outcome:
    return await _stream(client, "portforward", "ports=8000")


async def _pod_proxy(client: Client) -> Outcome:
    """Where the image has no ``httpd`` the pod ends, and nobody gets as far as to notice."""
    volumes, mounts = [{"name": "w", "emptyDir": {}}], [{"name": "w", "mountPath": "/w"}]
    script = "echo word > /w/index.html; exec httpd -f -p 8000 -h /w"
    await client.run("one", script, volumes=volumes, volumeMounts=mounts)
    await client.phase("one", "Running", "Failed")
    async with asyncio.timeout(WAIT_S):
        while (answer := await client.call("GET", f"{client.pods}/one:8000/proxy/"))[0] == 503:
            await asyncio.sleep(0.1)
    return answer[0] == 200, str(answer[1])


async def _node_proxy(client: Client) -> Outcome:
    client.cluster.need_node()
    nodes = (await client.ok("GET", "/api/v1/nodes"))["items"]
    return await _outcome(client, "GET", f"/api/v1/nodes/{nodes[0]['metadata']['name']}/proxy/healthz")


async def _debug(client: Client) -> Outcome:
    await client.create("one")
    added = {"name": "debug", "image": client.cluster.image}
    patch = {"spec": {"ephemeralContainers": [added]}}
    return await _outcome(client, "PATCH", f"{client.pods}/one/ephemeralcontainers", patch, STRATEGIC)


async def _resize(client: Client) -> Outcome:
    wants = {"name": "base", "image": "i", "resources": {"requests": {"cpu": "20m"}}}
    await client.create("one", containers=[wants])
    patch = {"spec": {"containers": [{"name": "base", "resources": {"requests": {"cpu": "10m"}}}]}}
    return await _outcome(client, "PATCH", f"{client.pods}/one/resize", patch, STRATEGIC)


async def _token(client: Client) -> Outcome:
    return await _outcome(client, "POST", f"{client.home}/serviceaccounts/default/token", {"spec": {}})


async def _finalize(client: Client) -> Outcome:
    space = await client.ok("GET", client.home)
    return await _outcome(client, "PUT", f"{client.home}/finalize", space)


async def _apply(client: Client) -> Outcome:
    headers, path = {"Content-Type": limits.APPLY_PATCH}, f"{client.home}/configmaps/applied"
    return await _outcome(client, "PATCH", path, YAML.encode(), headers, fieldManager="test")


async def _yaml(client: Client) -> Outcome:
    headers = {"Content-Type": "application/yaml"}
    return await _outcome(client, "POST", f"{client.home}/configmaps", YAML.encode(), headers)


async def _as_yaml(client: Client) -> Outcome:
    return await _outcome(client, "GET", client.pods, None, {"Accept": "application/yaml"})


async def _foreground(client: Client) -> Outcome:
    await client.make("configmaps", "c")
    options = {"propagationPolicy": "Foreground"}
    return await _outcome(client, "DELETE", f"{client.home}/configmaps/c", options)


async def _impersonate(client: Client) -> Outcome:
    somebody = {"Impersonate-User": "somebody", "Impersonate-Group": "system:masters"}
    return await _outcome(client, "GET", client.pods, None, somebody)


async def _openapi(client: Client) -> Outcome:
    return await _outcome(client, "GET", "/openapi/v2")


async def _strict(client: Client) -> Outcome:
    """It works where an unknown field is refused."""
    unknown = {"metadata": {"name": "c"}, "dada": {}}
    url = f"{client.url}{client.home}/configmaps?fieldValidation=Strict"
    async with client.session.post(url, json=unknown) as answer:
        warning = answer.headers.get("Warning", "")
        return "unknown field" in await answer.text(), warning


_REVIEWED = {"verb": "get", "resource": "pods", "namespace": "SPACE"}
_ABOUT = {"user": "somebody", "resourceAttributes": _REVIEWED}

ATTEMPTS: Mapping[str, Attempt] = {
    "pods/exec": _exec,
    "pods/attach": _attach,
    "pods/portforward": _portforward,
    "pods/proxy": _pod_proxy,
    "pods/ephemeralcontainers": _debug,
    "pods/resize": _resize,
    "nodes/proxy": _node_proxy,
    "serviceaccounts/token": _token,
    "namespaces/finalize": _finalize,
    limits.SERVER_SIDE_APPLY.name: _apply,
    limits.BODIES.name: _yaml,
    limits.ANSWERS.name: _as_yaml,
    limits.FOREGROUND.name: _foreground,
    limits.IMPERSONATION.name: _impersonate,
    limits.OPENAPI_V2.name: _openapi,
    limits.FIELD_VALIDATION.name: _strict,
    "tokenreviews.authentication.k8s.io": _review("authentication", "tokenreviews", {"token": "x"}),
    "selfsubjectreviews.authentication.k8s.io": _review("authentication", "selfsubjectreviews", {}),
    "subjectaccessreviews.authorization.k8s.io": _review("authorization", "subjectaccessreviews", _ABOUT),
    "localsubjectaccessreviews.authorization.k8s.io": _review(
        "authorization", "localsubjectaccessreviews", _ABOUT, namespaced=True
    ),
    "selfsubjectrulesreviews.authorization.k8s.io": _review(
        "authorization", "selfsubjectrulesreviews", {"namespace": "SPACE"}
    ),
    **{limit.name: _listing(place) for place, limit in limits.KINDS.items()},
}
