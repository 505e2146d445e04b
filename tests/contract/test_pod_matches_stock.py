"""For the same workload, template and override our pod equals the stock executor's.

The stock pod is made by the provider's own functions in the order of
``AirflowKubernetesScheduler._build_pod_request`` and ``run_pod_async``. Only
the paths in ``STOCK_DIFFERENCES`` may differ.
"""

import copy
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow import settings as airflow_settings
from airflow.policies import hookimpl
from airflow.providers.cncf.kubernetes import kubernetes_executor_templates, pod_template_file_examples
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator, make_safe_label_value
from airflow.version import version as airflow_version
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from kubernetes.client import ApiClient, Configuration
from kubernetes.client import models as k8s

from hybrid_executor.backends.kubernetes.podgenerator import PodMaker, mutation_hook_is_installed
from hybrid_executor.backends.kubernetes.templates import Templates
from hybrid_executor.model.attempt import Submission, TaskAddress
from hybrid_executor.pods import fields
from hybrid_executor.pods.build import PodSettings, safe_label, stock_differences
from hybrid_executor.pods.template import BASE
from tests.fixtures.submissions import pod_submission

SETTINGS = PodSettings(
    namespace="airflow",
    executor="hybrid_executor.HybridExecutor",
    scheduler_job="42",
    airflow_version=airflow_version,
    image="apache/airflow:3.3.2",
)
SHIPPED = sorted(
    path
    for package in (kubernetes_executor_templates, pod_template_file_examples)
    for path in Path(str(package.__file__)).parent.glob("*.yaml")
)

EVERYTHING = """\
apiVersion: v1
kind: Pod
metadata:
  creationTimestamp: null
  labels: {team: data, build: 7, beta: true}
  annotations: {since: 2026-01-01, cluster-autoscaler.kubernetes.io/safe-to-evict: "false"}
  finalizers: [example.com/keep]
spec:
  restartPolicy: Never
  activeDeadlineSeconds: "3600"
  nodeSelector: {gpu: true}
  initContainers:
    - name: clone
      image: alpine/git
      env: &env
        - {name: DEPTH, value: 1}
        - {name: NOTHING, value: null}
      volumeMounts: [{name: dags, mountPath: /git}]
    - {name: native-sidecar, image: fluent-bit, restartPolicy: Always}
  containers:
    - name: base
      image: template/image:1
      command: [tini, --]
      args: [overwritten]
      env: *env
      envFrom: [{secretRef: {name: warehouse, optional: true}}]
      ports: [{containerPort: 8793, name: logs}]
      resources:
        requests: {cpu: 1, memory: 2Gi}
        limits: {memory: 3Gi}
      livenessProbe: {httpGet: {path: /, port: 8793}, periodSeconds: 5}
      volumeMounts: [{name: dags, mountPath: /opt/airflow/dags, readOnly: true}]
      lifecycle: {preStop: {exec: {command: [sleep, 5]}}}
    - name: proxy
      image: proxy:1
  volumes:
    - {name: dags, emptyDir: {sizeLimit: 1Gi}}
    - name: both
      projected:
        defaultMode: 420
        sources:
          - serviceAccountToken: {path: token, expirationSeconds: 600}
          - configMap: {name: conf, items: [{key: a, path: b}]}
    - {name: scratch, emptyDir: {}}
  tolerations: [{key: spot, operator: Exists, effect: NoSchedule, tolerationSeconds: 5}]
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms: [{matchExpressions: [{key: zone, operator: In, values: [a, b]}]}]
  securityContext: {runAsUser: "50000", fsGroup: 0, supplementalGroups: [1, 2]}
  serviceAccountName: worker
"""
BARE = "spec:\n  containers:\n  - name: base\n"


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Our pod and the stock one of the same template and submission, listed paths taken out.

    With the workload in a Secret, and the stock way.
    """

    def compare(template: str | Path, submission: Submission, settings: PodSettings = SETTINGS) -> None:
        path = template if isinstance(template, Path) else tmp_path / "template.yaml"
        if isinstance(template, str):
            path.write_text(template)
        stock = stock_pod(path, submission, settings)
        for each in (settings, replace(settings, workload_secret=False)):
            ours = PodMaker(each, Templates(str(path)))
            assert without_listed(ours.make(submission), each) == without_listed(stock, each)

    return compare


def stock_pod(path: Path, submission: Submission, settings: PodSettings = SETTINGS) -> dict[str, Any]:
    address = submission.attempt.address
    assert address is not None
    pod = PodGenerator.construct_pod(
        namespace=settings.namespace,
        scheduler_job_id=settings.scheduler_job,
        pod_id="a-random-name",
        dag_id=address.dag_id,
        task_id=address.task_id,
        kube_image=settings.image,  # type: ignore[arg-type]
        try_number=address.try_number,
        map_index=address.map_index,
        date=None,
        run_id=address.run_id,
        args=[
            "python",
            "-m",
            "airflow.sdk.execution_time.execute_workload",
            "--json-string",
            submission.payload,
        ],
        pod_override_object=PodGenerator.from_obj(submission.executor_config),
        base_worker_pod=PodGenerator.deserialize_model_file(str(path)),
        with_mutation_hook=True,
    )
    plain: dict[str, Any] = ApiClient().sanitize_for_serialization(pod)
    return plain


def without_listed(pod: dict[str, Any], settings: PodSettings = SETTINGS) -> dict[str, Any]:
    pod = copy.deepcopy(pod)
    for path in stock_differences(settings):
        remove(pod, path)
    return pod


def remove(value: Any, path: tuple[str, ...]) -> None:
    """Take out what a path leads to, and the list of named things that is empty without it."""
    head, *tail = path
    if isinstance(value, list):
        for item in [item for item in value if item["name"] == head]:
            remove(item, tuple(tail)) if tail else value.remove(item)
    elif isinstance(value, dict) and head in value:
        remove(value[head], tuple(tail)) if tail else value.pop(head)
        if value.get(head) == []:
            del value[head]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_template_that_the_provider_ships_gives_the_stock_pod(make: Any, path: Path) -> None:
    make(path, pod_submission())


@pytest.mark.parametrize("template", [EVERYTHING, BARE], ids=["everything", "bare"])
@pytest.mark.parametrize("image", [None, "own/image:2"])
def test_a_template_of_the_user_gives_the_stock_pod(make: Any, template: str, image: str | None) -> None:
    settings = PodSettings(
        namespace="other",
        executor="x",
        scheduler_job="7",
        airflow_version=airflow_version,
        image=image,
    )
    make(template, pod_submission(), settings)


ids = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=250)
addresses = st.builds(
    TaskAddress,
    dag_id=ids,
    task_id=ids,
    run_id=ids,
    map_index=st.sampled_from([-1, 0, 7, 100_000]),
    try_number=st.integers(1, 50),
)


@given(ids)
def test_label_values_equal_the_providers_wherever_kubernetes_would_take_those(text: str) -> None:
    theirs, ours = make_safe_label_value(text), safe_label(text)
    valid = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
    assert valid.fullmatch(ours)
    assert ours == theirs or not valid.fullmatch(theirs)


#: Listed paths that the stock pod has too, with another value.
CHANGED = {("metadata", "name"), ("spec", "containers", BASE, "args")}
LABELS = {"dag_id", "task_id", "run_id"}


@given(addresses)
@hypothesis_settings(max_examples=30)
def test_any_ids_give_the_stock_pod(address: TaskAddress) -> None:
    path = SHIPPED[0]
    ours = PodMaker(SETTINGS, Templates(str(path)))
    submission = pod_submission(address)
    mine, theirs = without_listed(ours.make(submission)), without_listed(stock_pod(path, submission))
    for name in LABELS:
        # A stock value that no API server takes is the one thing that need not be equal.
        if theirs["metadata"]["labels"][name].startswith("-"):
            theirs["metadata"]["labels"][name] = theirs["metadata"]["labels"][name].lstrip("-")
    assert mine == theirs


OVERRIDES = {
    "resources": k8s.V1Pod(
        spec=k8s.V1PodSpec(
            containers=[
                k8s.V1Container(
                    name="base",
                    image="own:1",
                    env=[k8s.V1EnvVar(name="DEPTH", value="2")],
                    resources=k8s.V1ResourceRequirements(limits={"memory": "1Gi"}),
                    volume_mounts=[k8s.V1VolumeMount(name="x", mount_path="/x")],
                )
            ],
            volumes=[k8s.V1Volume(name="x", empty_dir=k8s.V1EmptyDirVolumeSource())],
            node_selector={"disk": "ssd"},
        ),
    ),
    "metadata only": k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(
            labels={"team": "me"}, annotations={"a": "b"}, namespace="airflow", finalizers=["x/y"]
        )
    ),
    "more containers": k8s.V1Pod(
        spec=k8s.V1PodSpec(
            containers=[
                k8s.V1Container(name="base"),
                k8s.V1Container(name="proxy", image="proxy:2"),
                k8s.V1Container(name="third", image="third:1"),
            ],
            init_containers=[
                k8s.V1Container(name="clone", env=[k8s.V1EnvVar(name="A", value="1")]),
                k8s.V1Container(name="new", image="new:1"),
            ],
        )
    ),
    "own executor": k8s.V1Pod(
        spec=k8s.V1PodSpec(
            containers=[
                k8s.V1Container(name="base", env=[k8s.V1EnvVar(name="MINE", value="1")], command=["sh"])
            ],
            active_deadline_seconds=60,
            tolerations=[],
        )
    ),
    "empty": k8s.V1Pod(),
}


@pytest.mark.parametrize("template", [EVERYTHING, BARE, SHIPPED[0]], ids=["everything", "bare", "shipped"])
@pytest.mark.parametrize("name", OVERRIDES)
def test_a_pod_override_gives_the_stock_pod(make: Any, template: str | Path, name: str) -> None:
    before = copy.deepcopy(OVERRIDES[name].to_dict())
    make(template, pod_submission(executor_config={"pod_override": OVERRIDES[name], "celery_hint": 1}))
    assert OVERRIDES[name].to_dict() == before, "the user's object is left alone"


class Hook:
    """A pod_mutation_hook as airflow_local_settings would register it."""

    def __init__(self, act: Callable[[Any], None]) -> None:
        self.act = act

    @hookimpl
    def pod_mutation_hook(self, pod: Any) -> None:
        self.act(pod)


@pytest.fixture
def install_hook() -> Iterator[Callable[[Callable[[Any], None]], None]]:
    manager = airflow_settings.get_policy_plugin_manager()
    registered = []

    def install(act: Callable[[Any], None]) -> None:
        registered.append(Hook(act))
        manager.register(registered[-1])

    yield install
    for hook in registered:
        manager.unregister(hook)


def add_things(pod: Any) -> None:
    pod.metadata.labels["hooked"] = "yes"
    pod.metadata.annotations["seen-image"] = pod.spec.containers[0].image or ""
    pod.spec.containers.append(k8s.V1Container(name="log", image="log:1"))
    pod.spec.tolerations = [*(pod.spec.tolerations or []), k8s.V1Toleration(key="x", operator="Exists")]


@pytest.mark.parametrize("override", [None, OVERRIDES["resources"]], ids=["plain", "override"])
def test_a_mutation_hook_runs_where_stock_runs_it(make: Any, install_hook: Any, override: Any) -> None:
    assert not mutation_hook_is_installed()
    install_hook(add_things)
    assert mutation_hook_is_installed()
    make(EVERYTHING, pod_submission(executor_config={"pod_override": override} if override else None))


@pytest.mark.parametrize(("workload_secret", "measure_pods"), [(True, False), (False, False), (False, True)])
def test_every_listed_difference_is_real(tmp_path: Path, workload_secret: bool, measure_pods: bool) -> None:
    """A path that no longer differs must leave the list."""
    settings = replace(SETTINGS, workload_secret=workload_secret, measure_pods=measure_pods)
    path = tmp_path / "template.yaml"
    path.write_text(BARE)
    submission = pod_submission()
    maker = PodMaker(settings, Templates(str(path)))
    ours, theirs = maker.make(submission), stock_pod(path, submission)
    for listed in stock_differences(settings):
        trimmed = copy.deepcopy(ours)
        remove(trimmed, listed)
        assert trimmed != ours, listed
        trimmed_stock = copy.deepcopy(theirs)
        remove(trimmed_stock, listed)
        assert (trimmed_stock == theirs) or listed in CHANGED, listed


@pytest.mark.parametrize("override", [None, OVERRIDES["own executor"]], ids=["plain", "override"])
def test_the_pod_runs_the_stock_program_and_no_other(override: Any) -> None:
    """That path is listed, since what the program reads differs."""
    submission = pod_submission(executor_config={"pod_override": override} if override else None)
    ours = PodMaker(SETTINGS, Templates("")).make(submission)["spec"]["containers"][0]["args"]
    theirs = stock_pod(Path("missing"), submission)["spec"]["containers"][0]["args"]
    assert (ours[:3], ours[3], theirs[3]) == (theirs[:3], "--json-path", "--json-string")


def test_the_minimal_template_is_what_stock_builds_without_a_template(tmp_path: Path) -> None:
    submission = pod_submission()
    ours = PodMaker(SETTINGS, Templates()).make(submission)
    theirs = stock_pod(tmp_path / "missing.yaml", submission)
    assert without_listed(ours) == without_listed(theirs)


def test_the_known_field_types_are_the_clients_own() -> None:
    """Walks the client's models from V1Pod; a new client with new fields fails here."""
    found: dict[str, set[str]] = {}
    seen = set()

    def walk(name: str) -> None:
        if name in seen:
            return
        seen.add(name)
        model = getattr(k8s, name)
        for attribute, kind in model.openapi_types.items():
            field = model.attribute_map[attribute]
            if (name, field) == ("V1Pod", "status"):
                continue
            inner = re.sub(r"^list\[(.*)\]$", r"\1", kind)
            found.setdefault(field, set()).add(inner)
            if hasattr(k8s, inner):
                walk(inner)

    walk("V1Pod")
    only = {field: kinds for field, kinds in found.items() if len(kinds) == 1}
    assert {field for field, kinds in only.items() if kinds == {"int"}} == fields.INTEGERS
    assert {field for field, kinds in only.items() if kinds == {"bool"}} == fields.BOOLEANS
    assert {field for field, kinds in only.items() if kinds == {"dict[str, str]"}} == fields.STRING_MAPS
    assert {field for field in fields.STRINGS if found[field] == {"str"}} == fields.STRINGS


def test_a_plain_pod_needs_neither_the_provider_nor_a_client() -> None:
    script = (
        "import sys\n"
        "from hybrid_executor.backends.kubernetes.podgenerator import PodMaker\n"
        "from hybrid_executor.backends.kubernetes.templates import Templates\n"
        "from tests.fixtures.submissions import SETTINGS, pod_submission\n"
        "pod = PodMaker(SETTINGS, Templates()).make(pod_submission())\n"
        "assert pod['spec']['containers'][0]['name'] == 'base'\n"
        "bad = [m for m in sys.modules if m.split('.')[0] == 'kubernetes' or m.endswith('pod_generator')]\n"
        "assert not bad, bad\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_override_copies_no_client_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copies = []
    original = Configuration.__deepcopy__
    monkeypatch.setattr(
        Configuration, "__deepcopy__", lambda self, memo: copies.append(1) or original(self, memo)
    )
    path = tmp_path / "template.yaml"
    path.write_text(EVERYTHING)
    maker = PodMaker(SETTINGS, Templates(str(path)))
    maker.make(pod_submission(executor_config={"pod_override": OVERRIDES["resources"]}))
    assert copies == []


def test_the_sample_template_really_exercises_conversions() -> None:
    raw = yaml.safe_load(EVERYTHING)
    assert raw["metadata"]["labels"]["build"] == 7
    assert raw["spec"]["securityContext"]["runAsUser"] == "50000"
