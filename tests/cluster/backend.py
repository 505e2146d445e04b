"""The Kubernetes backend on a real control plane, with the least rights and real processes in its pods.

``ClusterHarness`` implements ``tests.contract.backend_suite.WitnessHarness``:
its backends are a user of the Role in ``workers/rbac``, a submission is a shell
script that the runner (or whatever node there is) starts, and the other side
goes away by SIGKILL of the API server. ``Sender`` is what the executor does
with submissions: it sends again what the backend lets go.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hybrid_executor.backends.kubernetes.config import KubernetesConfig
from hybrid_executor.model.attempt import Submission, SubmissionId
from hybrid_executor.model.observation import Accepted, Ended, How, Observation, Rejected, Waiting
from hybrid_executor.pods.build import PodSettings, build_pod, settings_of_route
from hybrid_executor.pods.overlay import lay_over
from hybrid_executor.pods.template import MINIMAL_TEMPLATE, parse_template
from tests.cluster.plane import ControlPlane
from tests.cluster.pods import ENDS, Pods
from tests.cluster.runner_node import RunnerNode
from tests.contract.backend_suite import PATIENCE_S, Fate, Heard
from tests.fixtures import puppet
from tests.fixtures.pod_backends import TIMING, PodBackends

ROLES = Path(__file__).parents[2] / "workers" / "rbac"
#: Quick restarts and a Lease that is renewed every second.
QUICK = ("--restart-backoff-s", "0.1", "--lease-s", "4")
#: A node that nothing has.
NOWHERE = {"nodeSelector": {"no": "node"}}
#: A submission that was let go is sent again after this, whatever the backend proposed.
RESEND_S = 0.3


def role_rules(name: str) -> list[dict[str, Any]]:
    """The rules of one of the product's Roles, e.g. ``scheduler``."""
    found: list[dict[str, Any]] = yaml.safe_load((ROLES / f"{name}-role.yaml").read_text())["rules"]
    return found


class ClusterHarness(PodBackends):
    """Backends that make pods in one namespace; ``folder`` is where their processes leave traces."""

    def __init__(
        self,
        plane: ControlPlane,
        namespace: str,
        folder: Path,
        *,
        kubeconfig: Path | None = None,
        others: Sequence[KubernetesConfig] = (),
        **config: Any,
    ) -> None:
        self.plane, self.namespace, self.folder = plane, namespace, folder
        self.api = Pods(plane, namespace)
        #: The user that the backends are.
        self.user = f"scheduler-of-{namespace}"
        kubeconfig = kubeconfig or plane.role_kubeconfig(self.user, role_rules("scheduler"), namespace)
        settings = KubernetesConfig(
            namespace=namespace,
            in_cluster=False,
            config_file=str(kubeconfig),
            **{"watch": TIMING, **config},
        )
        super().__init__(settings, self.make_pod, others)

    # --- submissions ---------------------------------------------------------------------

    def submission(
        self,
        fate: Fate,
        *,
        attempt_id: str | None = None,
        number: int = 1,
        container: dict[str, Any] | None = None,
        route: Mapping[str, Any] | None = None,
        **pod: Any,
    ) -> Submission:
        """``pod`` is laid over what would be made: metadata, spec; ``container`` over its one container."""
        sent = puppet.submission(fate, attempt_id=attempt_id, number=number, **(route or {}))
        scripts = {
            Fate.FAILS: "exit 1",
            Fate.BLOCKS: f"while [ ! -e {self.end_of(sent.id)} ]; do sleep 0.05; done",
        }
        script = f"trap 'exit 143' TERM; echo up >> {self._starts_of(sent.id)}; {scripts.get(fate, 'true')}"
        if fate is Fate.PENDS:
            pod = {"spec": NOWHERE}
        config = {"command": ["sh", "-c", script], "container": container or {}, "pod": pod}
        return replace(sent, executor_config=config)

    def make_pod(self, sent: Submission) -> dict[str, Any]:
        """The pod that ``pods.build`` makes, with the script in place of Airflow's command."""
        settings = PodSettings(
            namespace=self.namespace,
            executor="hybrid_executor.HybridExecutor",
            scheduler_job="0",
            airflow_version="3.3.2",
            image="none",
        )
        settings = settings_of_route(settings, sent.attempt.route)
        pod = build_pod(sent, parse_template(MINIMAL_TEMPLATE, "the minimal template"), settings)
        config = sent.executor_config or {}
        main = pod["spec"]["containers"][0]
        main.pop("args", None)
        main |= {"command": config["command"], **config["container"]}
        return lay_over(pod, config["pod"])

    def post(self, pod: dict[str, Any]) -> None:
        self.api.make("pods", pod)

    def finish(self, submission: SubmissionId) -> None:
        """Returns when the API shows its end."""
        self.end_of(submission).touch()
        self.api.until(
            lambda: all(pod["status"]["phase"] in ENDS for pod in self.pods_of(submission)),
            f"{submission} did not end",
        )

    def starts(self, submission: SubmissionId) -> int:
        """How many processes were started for it."""
        file = self._starts_of(submission)
        return len(file.read_text().splitlines()) if file.exists() else 0

    # --- the other side --------------------------------------------------------------------

    def break_other_side(self) -> None:
        self.plane.kill("apiserver")

    def restore_other_side(self) -> None:
        self.plane.start("apiserver")

    def pods(self, selector: str = "") -> list[dict[str, Any]]:
        return self.api.all(selector)

    def pod(self, submission: SubmissionId) -> dict[str, Any]:
        """Its one pod."""
        [found] = self.pods_of(submission)
        return found

    def end_of(self, submission: SubmissionId) -> Path:
        return self.folder / f"{submission.attempt_id}.{submission.number}.end"

    def _starts_of(self, submission: SubmissionId) -> Path:
        return self.folder / f"{submission.attempt_id}.{submission.number}.starts"


class Sender(Heard):
    """Sends submissions as the executor does, and hears of them."""

    def __init__(self, harness: ClusterHarness, patience_s: float = PATIENCE_S) -> None:
        super().__init__(harness, patience_s)
        self._cluster = harness
        self._sent: dict[SubmissionId, Submission] = {}
        self._again: dict[SubmissionId, float] = {}

    def send(self, *batch: Submission) -> None:
        self._sent |= {sent.id: sent for sent in batch}
        self._cluster.backend.submit(batch)

    def listen(self) -> None:
        begun = len(self.all)
        super().listen()
        for said in self.all[begun:]:
            if isinstance(said, Waiting) and said.retry_after_s is not None and said.submission in self._sent:
                self._again[said.submission] = time.monotonic() + min(said.retry_after_s, RESEND_S)
        due = [id_ for id_, at in self._again.items() if at <= time.monotonic()]
        for id_ in due:
            del self._again[id_]
        if due:
            self._cluster.backend.submit([self._sent[id_] for id_ in due])

    def follow(self, seconds: float) -> None:
        """Listen for so long, whatever comes."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.listen()
            time.sleep(0.05)

    # --- what is waited for ------------------------------------------------------------------

    def waits(self, sent: Submission, reason: str) -> Waiting:
        """The first wait for this reason."""

        def look() -> list[Observation]:
            return [o for o in self.of(sent.id) if isinstance(o, Waiting) and o.reason == reason]

        self.until(lambda: bool(look()), f"a wait for {reason}")
        found = look()[0]
        assert isinstance(found, Waiting)
        return found

    def completes(self, sent: Submission) -> None:
        """An adopted one lacks its payload; it is handed over again, as the executor does."""
        self.until(
            lambda: any(isinstance(o, Accepted) and o.lacks_payload for o in self.of(sent.id)),
            "being asked for its payload",
        )
        self.send(sent)
        self.until(
            lambda: any(isinstance(o, Accepted) and not o.lacks_payload for o in self.of(sent.id)),
            "acceptance",
        )

    def rejected(self, sent: Submission) -> Rejected:
        self.until_kind(Rejected, [sent.id])
        return next(o for o in self.of(sent.id) if isinstance(o, Rejected))

    def all_end_well_and_once(self, batch: Sequence[Submission]) -> None:
        """Each was accepted, ran once in one process, and its end was told once."""
        ids = [sent.id for sent in batch]
        self.until_kind(Ended, ids)
        self.silence(ids)
        for id_ in ids:
            ends = [o.how for o in self.of(id_) if isinstance(o, Ended | Rejected)]  # type: ignore[union-attr]
            assert ends == [How.SUCCEEDED], self.of(id_)
            assert any(isinstance(o, Accepted) for o in self.of(id_))
            assert self._cluster.starts(id_) == 1


HarnessMaker = Callable[..., ClusterHarness]


@pytest.fixture(scope="module")
def module_runner(session_plane: ControlPlane) -> Iterator[RunnerNode]:
    """A runner as node of the session's plane, gone before another module brings its own."""
    with RunnerNode.started(session_plane, "backend-runner", QUICK) as node:
        yield node


@pytest.fixture
def runner(module_runner: RunnerNode, plane: ControlPlane) -> RunnerNode:
    """A node that takes pods."""
    if not module_runner.is_running:
        module_runner.start()
    module_runner.until_usable()
    return module_runner


@pytest.fixture
def start_harness(tmp_path: Path) -> Iterator[HarnessMaker]:
    """Start harnesses; arguments are those of ``ClusterHarness`` but for the folder."""
    made: list[ClusterHarness] = []

    def start(plane: ControlPlane, namespace: str, **more: Any) -> ClusterHarness:
        folder = tmp_path / f"traces-{len(made)}"
        folder.mkdir()
        made.append(ClusterHarness(plane, namespace, folder, **more))
        return made[-1]

    yield start
    for harness in made:
        harness.stop()


@pytest.fixture
def harness(
    runner: RunnerNode, plane: ControlPlane, namespace: str, start_harness: HarnessMaker
) -> ClusterHarness:
    """A backend on the session's plane, whose pods run on ``runner``."""
    return start_harness(plane, namespace)


@pytest.fixture
def sender(harness: ClusterHarness) -> Sender:
    return Sender(harness)
