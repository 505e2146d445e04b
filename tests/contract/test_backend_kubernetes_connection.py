"""How the Kubernetes backend comes by its credentials, and what it does when they can't be had."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hybrid_executor.backends.kubernetes import connection
from hybrid_executor.model.attempt import Submission
from hybrid_executor.model.observation import Ended, How, Waiting
from hybrid_executor.model.reason import Reason
from tests.contract.backend_suite import Fate, Heard
from tests.fixtures.kube import Kube, until
from tests.fixtures.puppet import KubernetesHarness

Start = Callable[[dict[str, Any]], KubernetesHarness]
PLUGIN = """#!/bin/sh
echo run >> {runs}
printf '{{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",'
printf ' "status": {{"token": "%s"}}}}' "$(cat {token})"
"""


@pytest.fixture
def start(kube: Kube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a backend whose user is given by these fields of a kubeconfig."""
    monkeypatch.setattr(connection, "READ_AGAIN_S", 0.5)
    made: list[KubernetesHarness] = []

    def starting(user: dict[str, Any]) -> KubernetesHarness:
        known = yaml.safe_load(Path(kube.kubeconfig).read_text())
        known["users"] = [{"name": one["name"], "user": user} for one in known["users"]]
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(known))
        made.append(KubernetesHarness(kube))
        made[-1].backend.stop(5.0)
        made[-1].backend = made[-1].unstarted(config_file=str(path))
        made[-1].backend.start()
        return made[-1]

    yield starting
    for harness in made:
        harness.close()


def ends_well(harness: KubernetesHarness, heard: Heard, sent: Submission) -> bool:
    """Send it again as often as it is let go, as the executor does."""
    heard.listen()
    seen = heard.of(sent.id)
    if not seen or (isinstance(seen[-1], Waiting) and seen[-1].retry_after_s is not None):
        heard.all = [o for o in heard.all if o.submission != sent.id]
        harness.backend.submit([sent])
    return any(isinstance(o, Ended) and o.how is How.SUCCEEDED for o in seen)


@pytest.mark.parametrize("source", ["a program", "a file"])
def test_a_token_that_is_refused_is_read_again(kube: Kube, start: Start, tmp_path: Path, source: str) -> None:
    token, runs, plugin = tmp_path / "token", tmp_path / "runs", tmp_path / "plugin"
    token.write_text(kube.token)
    plugin.write_text(PLUGIN.format(runs=runs, token=token))
    plugin.chmod(0o700)
    program = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin)}
    harness = start({"exec": program} if source == "a program" else {"tokenFile": str(token)})
    heard = Heard(harness)
    first, refused, after = (harness.submission(Fate.SUCCEEDS) for _ in range(3))
    harness.backend.submit([first])
    assert heard.end(first.id).how is How.SUCCEEDED
    if source == "a program":
        assert runs.read_text() == "run\n", "it was asked again while its token was good"
    # As when it has expired: the server takes it no more, and there is no other yet.
    harness.kube.fail(401, reason="Unauthorized")
    harness.backend.submit([refused])
    assert heard.wait(refused.id).reason is Reason.FORBIDDEN
    harness.kube.heal()
    stale = harness.backend._clusters.sessions[""].api._connection._client.configuration.api_key
    stale["BearerToken"] = "Bearer stale"
    until(lambda: ends_well(harness, heard, after), "its token was never read again")


@pytest.mark.parametrize("text", ["{", "a: [b", "contexts: 7\ncurrent-context: x\n", ""])
def test_a_kubeconfig_that_is_none_counts_as_away(kube: Kube, tmp_path: Path, text: str) -> None:
    harness = KubernetesHarness(kube)
    try:
        harness.backend.stop(5.0)
        (tmp_path / "broken").write_text(text)
        harness.backend = harness.unstarted(config_file=str(tmp_path / "broken"))
        harness.backend.start()
        sent, heard = harness.submission(Fate.SUCCEEDS), Heard(harness)
        harness.backend.submit([sent])
        wait = heard.wait(sent.id)
        assert wait.reason is Reason.API_UNAVAILABLE
        assert f"kubeconfig {tmp_path / 'broken'}" in wait.message
    finally:
        harness.close()
