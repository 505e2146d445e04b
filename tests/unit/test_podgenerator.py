"""What an executor_config or a mutation hook does wrong fails one attempt, by name."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
from airflow import settings as airflow_settings
from airflow.policies import hookimpl
from airflow.serialization.serialized_objects import BaseSerialization
from kubernetes.client import models as k8s

from hybrid_executor.backends.kubernetes.podgenerator import PodMaker, coordinator_extra
from hybrid_executor.backends.kubernetes.templates import Templates
from hybrid_executor.model.attempt import Submission, TaskAddress
from hybrid_executor.model.errors import InvalidPod
from hybrid_executor.naming import LABEL_ATTEMPT, LABEL_OWNER, pod_name
from hybrid_executor.pods.build import ENV_EXECUTION_API, SEALED
from hybrid_executor.pods.layers import Layer, layers_of
from hybrid_executor.pods.template import field_name
from tests.fixtures.submissions import ATTEMPT_ID, SETTINGS, TOKEN, pod_submission

GOOD = "spec:\n  containers:\n  - name: base\n    image: {image}\n"


def template(image: str) -> str:
    return GOOD.replace("{image}", image)


class Files:
    """Template files in memory."""

    def __init__(self, **texts: str) -> None:
        self.texts = texts

    def stamp(self, path: str) -> Any:
        return self.read(path)

    def read(self, path: str) -> str:
        if path not in self.texts:
            raise FileNotFoundError(2, "No such file or directory", path)
        return self.texts[path]


def maker(files: Files | None = None, default: str = "", **more: Any) -> PodMaker:
    settings = more.pop("settings", SETTINGS)
    return PodMaker(settings, Templates(default, files or Files()), **more)


def override(**container: Any) -> dict[str, Any]:
    spec = k8s.V1PodSpec(containers=[k8s.V1Container(name="base", **container)])
    return {"pod_override": k8s.V1Pod(spec=spec)}


def refused(config: Any, **more: Any) -> str:
    with pytest.raises(InvalidPod) as caught:
        maker(**more).make(pod_submission(executor_config=config))
    return str(caught.value)


@pytest.fixture
def hook() -> Iterator[Callable[[Callable[[Any], None]], None]]:
    manager, registered = airflow_settings.get_policy_plugin_manager(), []

    class Hook:
        def __init__(self, act: Callable[[Any], None]) -> None:
            self.act = act

        @hookimpl
        def pod_mutation_hook(self, pod: Any) -> None:
            self.act(pod)

    def install(act: Callable[[Any], None]) -> None:
        registered.append(Hook(act))
        manager.register(registered[-1])

    yield install
    for each in registered:
        manager.unregister(each)


def test_the_most_particular_template_wins() -> None:
    files = Files(**{name: template(name) for name in ("conf", "route", "task", "coordinator")})
    settings = replace(SETTINGS, image=None)

    def image(config: Mapping[str, Any] | None = None, route: str | None = None, extra: Any = None) -> str:
        made = maker(files, "conf", settings=settings, coordinator=lambda _: extra).make(
            pod_submission(executor_config=config, pod_template_file=route)
        )
        return str(made["spec"]["containers"][0]["image"])

    task = {"pod_template_file": "task"}
    assert image() == "conf"
    assert image(route="route") == "route"
    assert image(task, "route") == "task"
    assert image(task, "route", {"pod_template_file": "coordinator"}) == "coordinator"
    assert image(extra={"worker_container_repository": "jvm", "worker_container_tag": "1"}) == "jvm:1"


def test_a_pod_is_made_for_the_cluster_and_the_namespace_of_its_route() -> None:
    east = replace(SETTINGS, namespace="airflow-east", env={ENV_EXECUTION_API: "https://east/execution/"})
    make = maker(clusters={"east": replace(east, watched=frozenset({"airflow-east", "research"}))}).make

    def place(**route: Any) -> tuple[str, str | None]:
        pod = make(pod_submission(**route))
        env = {item["name"]: item.get("value") for item in pod["spec"]["containers"][0]["env"]}
        return pod["metadata"]["namespace"], env.get(ENV_EXECUTION_API)

    assert place() == ("airflow", None)
    assert place(cluster="east") == ("airflow-east", "https://east/execution/")
    own = "https://nearer/execution/"
    assert place(cluster="east", namespace="research", execution_api_server_url=own) == ("research", own)
    assert place(namespace="research", execution_api_server_url=own) == ("research", own)
    moved = {"pod_override": k8s.V1Pod(metadata=k8s.V1ObjectMeta(namespace="nobodys"))}
    with pytest.raises(InvalidPod, match="'nobodys' is not watched"):
        make(pod_submission(cluster="east", executor_config=moved))


def test_a_queue_without_a_coordinator_adds_nothing() -> None:
    assert coordinator_extra("kubernetes") is None


def test_a_tasks_own_template_takes_the_place_of_the_routes_and_of_its_defaults() -> None:
    files = Files(conf=template("conf"), route=template("route"), task=template("task"))
    defaults = {"spec": {"nodeSelector": {"disk": "ssd"}}}

    def spec(config: Any = None, route: str | None = "route", **more: Any) -> Any:
        submission = pod_submission(executor_config=config, pod_template_file=route, pod_defaults=defaults)
        return maker(files, "conf", settings=replace(SETTINGS, image=None), **more).make(submission)["spec"]

    assert spec()["nodeSelector"] == spec(route=None)["nodeSelector"] == {"disk": "ssd"}
    own = spec({"pod_template_file": "task"})
    assert own["containers"][0]["image"] == "task"
    assert "nodeSelector" not in own
    assert "nodeSelector" not in spec(coordinator=lambda _: {"pod_template_file": "conf"})
    # What a task says over its pod goes over the defaults.
    assert spec({"pod_override": {"spec": {"containers": [], "nodeSelector": {"disk": "hdd"}}}})[
        "nodeSelector"
    ] == {"disk": "hdd"}


def test_keys_that_belong_to_others_are_let_be() -> None:
    made = maker().make(pod_submission(executor_config={"celery_priority": 3, "KubernetesExecutor": {}}))
    assert made == maker().make(pod_submission())


def test_airflow_2s_dictionary_makes_the_pod_of_its_override(caplog: pytest.LogCaptureFixture) -> None:
    legacy = {
        "image": "own:1",
        "request_memory": "128Mi",
        "volumes": [{"name": "data", "emptyDir": {}}],
        "volume_mounts": [k8s.V1VolumeMount(name="data", mount_path="/data")],
        "tolerations": [{"key": "spot", "operator": "Exists"}],
    }
    replaced = k8s.V1Pod(
        spec=k8s.V1PodSpec(
            containers=[
                k8s.V1Container(
                    name="base",
                    image="own:1",
                    resources=k8s.V1ResourceRequirements(requests={"memory": "128Mi"}),
                    volume_mounts=[k8s.V1VolumeMount(name="data", mount_path="/data")],
                )
            ],
            volumes=[k8s.V1Volume(name="data", empty_dir=k8s.V1EmptyDirVolumeSource())],
            tolerations=[k8s.V1Toleration(key="spot", operator="Exists")],
        )
    )
    before = dict(legacy)
    making = maker()
    with caplog.at_level("WARNING"):
        for number in (1, 2):
            submission = pod_submission(number=number, executor_config={"KubernetesExecutor": legacy})
            assert making.make(submission) == making.make(
                pod_submission(number=number, executor_config={"pod_override": replaced})
            )
    assert legacy == before
    [said] = caplog.messages
    assert said.startswith('etl.heavy: executor_config={"KubernetesExecutor": {...}} is deprecated')
    assert "'request_memory' is spec.containers[base].resources.requests.memory" in said


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"KubernetesExecutor": {"image": "x", "ram": 1}}, "the key 'ram' can't be translated: is unknown"),
        (
            {"KubernetesExecutor": {"volume_mounts": [{"name": "a", "mount_path": "/a"}]}},
            "the key 'volume_mounts' can't be translated: ValueError: Invalid value for `mount_path`",
        ),
        (
            {"KubernetesExecutor": {"affinity": {"node_affinity": {"a": 1}}}},
            "the key 'affinity' can't be translated: ValueError: spec.affinity.node_affinity: unknown field",
        ),
        ({"KubernetesExecutor": {"image": object()}}, "the key 'image' can't be translated: "),
        ({"KubernetesExecutor": ["image"]}, "must be a dict, not list"),
        ({"KubernetesExecutor": {"image": "x"}, "pod_override": {"spec": {}}}, "has both"),
    ],
)
def test_what_cannot_be_translated_of_it_fails_that_one_attempt_by_name(config: Any, said: str) -> None:
    assert said in refused(config)


def test_an_override_may_be_the_object_or_its_serialized_form() -> None:
    config = override(image="own:1")
    as_object = maker().make(pod_submission(executor_config=config))
    stored = BaseSerialization.serialize(config["pod_override"])
    assert as_object["spec"]["containers"][0]["image"] == "own:1"
    manifest = {"spec": {"containers": [{"name": "base", "image": "own:1"}]}}
    for given in ({k.value: v for k, v in stored.items()}, stored, manifest):
        assert maker().make(pod_submission(executor_config={"pod_override": given})) == as_object


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("text", "pod_override: TypeError: must be a kubernetes.client.models.V1Pod, not str"),
        (
            {"spec": {"containers": [{"image": "no-name"}]}},
            "pod_override: ValueError: Invalid value for `name`",
        ),
        (
            {"spec": {"containers": [{"name": "base"}], "restart_policy": "Never"}},
            "pod_override: ValueError: spec.restart_policy: unknown field",
        ),
        (k8s.V1Pod(spec=k8s.V1PodSpec(containers="no")), "pod_override: "),
    ],
)
def test_a_bad_override_fails_by_name(given: Any, said: str) -> None:
    assert said in refused({"pod_override": given})


def test_an_executor_config_that_is_no_dict_fails_by_name() -> None:
    assert "must be a dict, not list" in refused(["pod_override"])


def test_a_bad_template_fails_by_file_line_and_field() -> None:
    files = Files(conf="spec:\n  containers:\n  - name: main\n")
    assert "conf:2: spec.containers: needs a container named `base`" in refused(
        None, files=files, default="conf"
    )
    assert "gone: can't be read (No such file or directory)" in refused({"pod_template_file": "gone"})


def test_a_hook_that_raises_fails_its_pod_without_showing_the_token_af27611(hook: Any) -> None:
    def act(pod: Any) -> None:
        raise KeyError(f"no team for {pod.spec.containers[0].args[-1]}")

    hook(act)
    said = refused(None)
    assert "pod_mutation_hook: KeyError: " in said
    assert TOKEN not in said


def test_one_bad_pod_leaves_the_next_one_alone_af14182(hook: Any) -> None:
    def act(pod: Any) -> None:
        if pod.metadata.annotations.get("task_id") == "heavy":
            raise SystemExit(1)

    before = maker().make(pod_submission(number=2))
    hook(act)
    assert "SystemExit" in refused(None)
    other = TaskAddress(dag_id="etl", task_id="light", run_id="r")
    assert maker().make(pod_submission(other))["metadata"]["annotations"]["task_id"] == "light"
    assert before["metadata"]["annotations"]["task_id"] == "heavy"


@pytest.mark.parametrize(
    "break_it", [lambda p: setattr(p, "spec", None), lambda p: p.metadata.labels.update(a=object())]
)
def test_a_hook_that_ruins_the_pod_fails_it(hook: Any, break_it: Callable[[Any], None]) -> None:
    hook(break_it)
    assert refused(None).startswith("pod_mutation_hook: left a pod")


def test_our_identity_survives_override_and_hook(hook: Any) -> None:
    def act(pod: Any) -> None:
        pod.metadata.name = "renamed"
        pod.metadata.labels = {"only": "mine"}
        pod.spec.restart_policy = "Always"

    hook(act)
    submission = pod_submission(
        executor_config={
            "pod_override": k8s.V1Pod(metadata=k8s.V1ObjectMeta(name="x", labels={LABEL_ATTEMPT: "y"}))
        }
    )
    made = maker().make(submission)
    assert made["metadata"]["name"] == pod_name(submission.attempt.address, submission.id)
    assert made["metadata"]["labels"][LABEL_ATTEMPT] == ATTEMPT_ID
    assert made["metadata"]["labels"][LABEL_OWNER] == "42"
    assert made["metadata"]["labels"]["only"] == "mine"
    assert made["spec"]["restartPolicy"] == "Never"


def traced(making: PodMaker, submission: Submission) -> dict[str, str]:
    """By field: its layer."""
    stages = making.trace(submission)
    assert stages[-1] == (Layer.SEAL, making.make(submission))
    return {field_name(path): str(layer) for path, layer in layers_of(stages, SEALED).items()}


def test_a_trace_says_which_layer_set_each_field(hook: Any) -> None:
    def act(pod: Any) -> None:
        pod.metadata.name = "renamed"
        pod.spec.containers.insert(0, pod.spec.containers.pop())
        pod.spec.priority_class_name = "hooked"

    files = Files(route="spec:\n  priority: 1\n  containers:\n  - {name: base, image: a, tty: true}\n")
    defaults = {"spec": {"nodeSelector": {"disk": "ssd", "zone": "a"}}}
    env = [k8s.V1EnvVar(name="MINE", value="1")]
    submission = pod_submission(
        executor_config=override(env=env, working_dir="/x"), pod_template_file="route", pod_defaults=defaults
    )
    plain = traced(maker(files), pod_submission(pod_template_file="route", pod_defaults=defaults))
    assert plain["spec.containers[0].tty"] == plain["spec.priority"] == "template"
    assert plain["spec.nodeSelector.disk"] == "route"
    hook(act)
    layers = traced(maker(files), submission)
    assert layers["spec.containers[0].tty"] == "template"
    assert layers["spec.nodeSelector.zone"] == "route"
    assert layers["spec.containers[0].image"] == layers["spec.containers[0].args"] == "executor"
    assert layers["metadata.annotations.dag_id"] == "executor"
    assert (
        layers["spec.containers[0].env[2].name"] == layers["spec.containers[0].workingDir"] == "pod_override"
    )
    assert layers["spec.priorityClassName"] == "pod_mutation_hook"
    assert layers["metadata.name"] == layers["spec.restartPolicy"] == layers["spec.volumes[0].name"] == "seal"


def test_a_trace_names_the_tasks_own_template() -> None:
    files = Files(task=template("own"), conf=template("conf"))
    submission = pod_submission(executor_config={"pod_template_file": "task"}, pod_defaults={"spec": {}})
    layers = traced(maker(files, "conf", settings=replace(SETTINGS, image=None)), submission)
    assert layers["spec.containers[0].image"] == "own_template"
    assert not {"template", "route"} & set(layers.values())
