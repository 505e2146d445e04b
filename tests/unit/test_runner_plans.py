"""The runner's pure parts: quantities, variables, volumes, fit, log lines, options."""

import base64
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_executor.model.errors import ConfigError
from hybrid_executor.standalone.runner import fit, kubeconfig, loglines, options, plan, quantity
from hybrid_executor.standalone.runner.container import base_environment, pretence
from hybrid_executor.standalone.runner.environment import (
    ConfigMissing,
    NodeFacts,
    Objects,
    Surroundings,
    argv,
    expand,
    field_ref,
    variables,
)
from hybrid_executor.standalone.runner.podstate import parse_instant
from hybrid_executor.standalone.runner.volumeplan import (
    VolumeUnavailable,
    mount_plans,
    references,
    volume_plan,
)

NODE = NodeFacts("node", "127.0.0.1", {"cpu": "2", "memory": "4Gi"})


def pod(**spec: Any) -> dict[str, Any]:
    metadata = {"name": "p", "namespace": "ns", "uid": "u", "labels": {"a": 'x"y'}}
    return {"metadata": metadata, "spec": {"containers": [{"name": "base"}], **spec}, "status": {}}


def around(objects: Objects | None = None, **spec: Any) -> Surroundings:
    return Surroundings(pod(**spec), objects or Objects(), NODE)


def secret(**data: str) -> dict[str, Any]:
    return {"data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}}


@pytest.mark.parametrize(
    ("text", "number"),
    [("100m", Fraction(1, 10)), ("1Gi", Fraction(2**30)), ("1e3", Fraction(1000)), ("2", Fraction(2)),
     (".5", Fraction(1, 2)), ("1k", Fraction(1000)), ("12E", Fraction(12 * 10**18))],
)  # fmt: skip
def test_quantities_are_exact(text: str, number: Fraction) -> None:
    assert quantity.parse(text) == number


@pytest.mark.parametrize("text", ["", "1GiB", "x", "1 Gi", "--1"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no Kubernetes quantity"):
        quantity.parse(text)


@given(st.text(alphabet="$()AB ", max_size=30))
def test_expansion_of_text_without_known_names_only_unescapes_dollars(text: str) -> None:
    assert expand(text, {}).replace("$", "") == text.replace("$", "")


def test_references_are_expanded_once_and_unknown_ones_stay() -> None:
    values = {"A": "$(B)", "B": "b"}
    assert expand("$(A) $(B) $(C) $$(B) $", values) == "$(B) b $(C) $(B) $"


def test_later_variables_win_and_see_earlier_ones() -> None:
    container = {"name": "base", "env": [{"name": "X", "value": "$(BASE)1"}, {"name": "X", "value": "$(X)2"}]}
    assert variables(container, around(), {"BASE": "0"})["X"] == "012"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({"secretKeyRef": {"name": "s", "key": "k"}}, 'secret "s" not found'),
        ({"configMapKeyRef": {"name": "c", "key": "k"}}, 'configmap "c" not found'),
        ({"secretKeyRef": {"name": "here", "key": "k"}}, "couldn't find key k in Secret ns/here"),
    ],
)
def test_what_a_variable_misses_is_said_as_a_kubelet_says_it(source: dict[str, Any], words: str) -> None:
    container = {"name": "base", "env": [{"name": "X", "valueFrom": source}]}
    with pytest.raises(ConfigMissing) as error:
        variables(container, around(Objects(secrets={"here": secret(other="x")})), {})
    assert str(error.value) == words


def test_fields_that_pods_may_not_ask_for_are_refused() -> None:
    assert field_ref("metadata.labels", pod(), NODE) == 'a="x\\"y"'
    with pytest.raises(ValueError, match="unsupported fieldPath"):
        field_ref("spec.containers", pod(), NODE)


def test_arguments_alone_are_the_command() -> None:
    assert argv({"args": ["python", "$(X)"]}, {"X": "1"}) == ["python", "1"]


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        ({"secret": {"secretName": "s"}}, 'secret "s" not found'),
        ({"configMap": {"name": "c"}}, 'configmap "c" not found'),
        ({"persistentVolumeClaim": {"claimName": "x"}}, "volume type persistentVolumeClaim is not supported"),
        ({"csi": {}}, "volume type csi is not supported"),
        ({"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}, "no token"),
        ({"downwardAPI": {"items": [{"path": "../x", "fieldRef": {"fieldPath": "metadata.name"}}]}}, "'..'"),
    ],
)
def test_a_volume_that_cannot_be_given_names_itself_and_why(volume: dict[str, Any], words: str) -> None:
    with pytest.raises(VolumeUnavailable) as error:
        volume_plan({"name": "v", **volume}, around())
    assert str(error.value).startswith('MountVolume.SetUp failed for volume "v" : ')
    assert words in str(error.value)


def test_items_choose_paths_and_modes() -> None:
    items = [{"key": "k", "path": "deep/k", "mode": 0o400}]
    volume = {"name": "v", "secret": {"secretName": "s", "items": items, "defaultMode": 0o440}}
    plan_ = volume_plan(volume, around(Objects(secrets={"s": secret(k="1", other="2")})))
    assert [(path, file.content, file.mode) for path, file in plan_.files.items()] == [
        ("deep/k", b"1", 0o400)
    ]


def test_a_mount_of_no_volume_and_a_sub_path_that_leaves_it_are_refused() -> None:
    with pytest.raises(VolumeUnavailable):
        mount_plans({"volumeMounts": [{"name": "none", "mountPath": "/x"}]}, [], {})
    volume = volume_plan({"name": "v", "emptyDir": {}}, around())
    with pytest.raises(ValueError, match="relative"):
        mount_plans({"volumeMounts": [{"name": "v", "mountPath": "/x", "subPath": "../y"}]}, [volume], {})


def test_all_objects_that_a_pod_refers_to_are_found() -> None:
    env = [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s1", "key": "k"}}}]
    container = {"name": "base", "env": env, "envFrom": [{"configMapRef": {"name": "c1"}}]}
    volumes = [
        {"name": "a", "secret": {"secretName": "s2"}},
        {"name": "b", "projected": {"sources": [{"configMap": {"name": "c2"}},
                                                {"serviceAccountToken": {"path": "t"}}]}},
    ]  # fmt: skip
    found = references(pod(containers=[container], volumes=volumes))
    assert (found.secrets, found.configmaps) == ({"s1", "s2"}, {"c1", "c2"})
    assert list(found.tokens) == [("b", "t")]


def test_a_pod_takes_the_most_of_its_phases() -> None:
    def with_cpu(name: str, cpu: str, **more: Any) -> dict[str, Any]:
        return {"name": name, "resources": {"requests": {"cpu": cpu}}, **more}

    inits = [with_cpu("i", "3"), with_cpu("side", "500m", restartPolicy="Always")]
    asked = pod(containers=[with_cpu("a", "1"), with_cpu("b", "1")], initContainers=inits)
    assert fit.requests(asked).cpu == 3


def test_obstacles_are_worded_as_the_scheduler_words_them() -> None:
    offered = fit.capacity({"pods": "1", "cpu": "1", "memory": "1Gi"})
    asked = pod(containers=[{"name": "a", "resources": {"requests": {"cpu": "2", "memory": "2Gi"}}}])
    found = fit.obstacles(asked, offered, fit.Capacity(1), {})
    assert fit.unschedulable_message(found) == (
        "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, 1 Too many pods."
    )
    assert fit.obstacles(pod(), offered, fit.Capacity(), {}) == []


def test_more_important_pods_come_first_then_older_ones() -> None:
    def made(name: str, priority: int, when: str) -> dict[str, Any]:
        return {"metadata": {"name": name, "creationTimestamp": when}, "spec": {"priority": priority}}

    found = fit.order([made("c", 0, "2"), made("b", 0, "1"), made("a", 5, "3")])
    assert [item["metadata"]["name"] for item in found] == ["a", "b", "c"]


@given(st.lists(st.binary(max_size=60), max_size=8), st.binary(max_size=40000))
def test_no_byte_of_output_is_lost_or_added_by_the_log_format(chunks: list[bytes], long: bytes) -> None:
    chunks = [*chunks, long]
    stored, pending = [], b""
    for chunk in chunks:
        pieces, pending = loglines.split(pending, chunk)
        stored += [loglines.line(1, "stdout", text, complete=whole) for text, whole in pieces]
    stored.append(loglines.line(1, "stdout", pending, complete=False))
    shown = b"".join(loglines.shown(raw, timestamps=False) for raw in stored)
    assert shown == b"".join(chunks)


def test_the_tail_counts_whole_lines() -> None:
    texts = [(b"a", True), (b"b1", False), (b"b2", True), (b"c", True)]
    stored = [loglines.line(1, "stdout", text, complete=whole) for text, whole in texts]
    shown = b"".join(loglines.chosen(stored, loglines.LogQuery(tail=2)))
    assert shown == b"b1b2\nc\n"
    assert b"".join(loglines.chosen(stored, loglines.LogQuery(tail=0))) == b""


def test_log_queries_name_what_is_wrong_with_them() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    with pytest.raises(ValueError, match="tailLines"):
        loglines.query({"tailLines": "many"}, now)
    assert loglines.query({"sinceTime": "2026-01-01T00:00:00.123456789Z", "follow": "true"}, now).follow


@given(st.datetimes(min_value=datetime(1980, 1, 1), max_value=datetime(2200, 1, 1)))  # noqa: DTZ001
def test_instants_survive_with_and_without_fractions(moment: datetime) -> None:
    aware = moment.replace(tzinfo=UTC)
    assert parse_instant(aware.isoformat().replace("+00:00", "Z")) == aware
    assert parse_instant(aware.strftime("%Y-%m-%dT%H:%M:%S.%f") + "789Z") == aware


def test_the_first_restart_is_immediate_and_later_ones_double_up_to_five_minutes() -> None:
    assert [plan.restart_delay_s(n, 10) for n in (1, 2, 3, 4, 50)] == [0, 10, 20, 40, 300]


def test_pretences_come_from_annotations() -> None:
    asked = pretence({"hybrid-executor/run-seconds": "1.5", "hybrid-executor/exit-code": "3"})
    assert (asked.run_s, asked.exit_code) == (1.5, 3)


def test_the_virtual_environment_comes_first_in_the_path_and_options_win() -> None:
    env = base_environment([Path("/venv")], {"LANG": "x"})
    assert env["PATH"].startswith("/venv/bin:")
    assert env["LANG"] == "x"


def test_every_problem_of_the_command_line_is_in_one_message(tmp_path: Path) -> None:
    loose = tmp_path / "env"
    loose.write_text("A=1\n# a remark\nbroken\n")
    loose.chmod(0o644)
    given_ = [
        "--kubeconfig",
        f"{tmp_path}/none",
        "--state",
        f"{tmp_path}/s",
        "--name",
        "n",
        "--max-pods",
        "0",
    ]
    with pytest.raises(ConfigError) as error:
        options.read([*given_, "--env-file", str(loose), "--env", "x", "--allocatable", "cpu=many"])
    words = str(error.value)
    for part in (
        "none: no such file",
        "chmod 600",
        "broken: expected KEY=VALUE",
        "--env x",
        "cpu",
        "at least 1",
    ):
        assert part in words


def test_an_env_file_gives_variables_that_options_override(tmp_path: Path) -> None:
    private, config = tmp_path / "env", tmp_path / "kubeconfig"
    private.write_text("A=file\nB=with = sign\n")
    private.chmod(0o600)
    config.touch()
    given_ = ["--kubeconfig", str(config), "--state", str(tmp_path), "--name", "n"]
    read = options.read([*given_, "--env-file", str(private), "--env", "A=option"])
    assert read.env == {"A": "option", "B": "with = sign"}
    assert "option" not in repr(read)


def test_a_kubeconfig_that_wants_a_credential_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(
        "current-context: c\n"
        "contexts: [{name: c, context: {cluster: k, user: u}}]\n"
        "clusters: [{name: k, cluster: {server: 'http://127.0.0.1:1'}}]\n"
        "users: [{name: u, user: {exec: {command: x}}}]\n"
    )
    with pytest.raises(ConfigError, match="exec is not supported"):
        kubeconfig.load(path)
