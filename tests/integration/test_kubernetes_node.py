"""The Kubernetes backend over the embedded API and a node that runs real processes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hybrid_executor.backends.kubernetes.backend import KubernetesBackend
from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.model.attempt import Submission
from hybrid_executor.model.observation import How, Started
from hybrid_executor.model.reason import Reason
from tests.contract.backend_suite import Fate, Heard
from tests.fixtures.kube import Kube, until
from tests.fixtures.node import NAMESPACE, Node, shell_pod
from tests.fixtures.pod_backends import TIMING
from tests.fixtures.puppet import submission


class Scripts:
    """A maker of pods that run a shell script, given for each submission."""

    def __init__(self) -> None:
        self._scripts: dict[str, str] = {}
        self.spec: dict[str, Any] = {}

    def __call__(self, sent: Submission) -> dict[str, Any]:
        name = f"script-{sent.attempt.id}-{sent.number}"
        return shell_pod(name, self._scripts[sent.attempt.id], **self.spec)

    def submission(self, script: str) -> Submission:
        sent = submission(Fate.SUCCEEDS)
        self._scripts[sent.attempt.id] = script
        return sent


class Bench:
    """A backend, its maker and what it has said."""

    def __init__(self, kube: Kube) -> None:
        self.scripts = Scripts()
        self.config = KubernetesConfig(
            namespace=NAMESPACE, in_cluster=False, config_file=kube.kubeconfig, watch=TIMING
        )
        self.backend = KubernetesBackend(self.config, self.scripts, owner="7")
        self.backend.start()
        self.heard = Heard(self)  # type: ignore[arg-type]

    def run(self, script: str) -> Submission:
        sent = self.scripts.submission(script)
        self.backend.submit([sent])
        return sent


@pytest.fixture
def bench(kube: Kube, node: Node) -> Iterator[Bench]:
    made = Bench(kube)
    yield made
    made.backend.stop(5.0)


def test_a_process_succeeds_another_fails_with_its_exit_code(bench: Bench) -> None:
    good, bad = bench.run("exit 0"), bench.run("exit 3")
    assert bench.heard.end(good.id).how is How.SUCCEEDED
    end = bench.heard.end(bad.id)
    assert end.diagnosis is not None
    assert (end.how, end.diagnosis.reason, end.diagnosis.exit_code) == (How.FAILED, Reason.ERROR, 3)


def test_a_running_pods_log_is_read_by_a_backend_that_never_started(bench: Bench, tmp_path: Path) -> None:
    go_on = tmp_path / "go-on"
    script = f"for i in $(seq 120); do echo line $i; done; while [ ! -e {go_on} ]; do sleep 0.05; done"
    sent = bench.run(script)
    bench.heard.until_kind(Started, [sent.id])
    reader = KubernetesBackend(bench.config, bench.scripts)
    lines = until(
        lambda: (found := reader.log(sent.attempt.id)) and found[-1] == "line 120" and found,
        "the log never came",
    )
    assert lines == [f"line {i}" for i in range(21, 121)]
    go_on.touch()
    assert bench.heard.end(sent.id).how is How.SUCCEEDED


def test_a_cancelled_process_is_gone_when_its_end_is_told(bench: Bench, tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    script = f"trap 'rm {alive}; exit 1' TERM; touch {alive}; while true; do sleep 0.05; done"
    sent = bench.run(script)
    until(alive.exists, "the process never began")
    bench.backend.cancel([sent.id])
    assert bench.heard.end(sent.id).how is How.CANCELLED
    assert not alive.exists()


def test_each_submission_runs_once_though_its_reply_was_lost(
    bench: Bench, kube: Kube, tmp_path: Path
) -> None:
    lines = tmp_path / "lines"
    kube.fail(verb="create", path=".*/pods", times=3, drop_reply=True)
    sent = [bench.scripts.submission(f"echo {n} >> {lines}") for n in range(5)]

    def all_ended() -> bool:
        told = {o.submission for o in bench.heard.all if not hasattr(o, "retry_after_s")}
        bench.backend.submit([s for s in sent if s.id not in told])
        return all(any(hasattr(o, "how") for o in bench.heard.of(s.id)) for s in sent)

    bench.heard.until(all_ended, "every end")
    assert sorted(lines.read_text().split()) == [str(n) for n in range(5)]
