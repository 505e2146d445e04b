"""docker-compose.yml holds to the specification, waits by conditions, and hands out no more than needed."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hybrid_executor.routing.pools import parse_pools
from hybrid_executor.version import __version__
from tests.image.compose import FILE, OURS, Service, document, services
from tests.image.dockerfile import ROOT

SERVICES = services()
TEMPLATE = yaml.safe_load((ROOT / "workers/compose/pod_template.yaml").read_text())
[BASE] = TEMPLATE["spec"]["containers"]
WORKERS = ("worker-light", "worker-bulk")


def test_it_holds_to_the_compose_specification() -> None:
    check = [
        Path(sys.executable).with_name("check-jsonschema"),
        "--builtin-schema",
        "vendor.compose-spec",
        FILE,
    ]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("service", SERVICES.values(), ids=lambda service: service.name)
def test_each_service_waits_by_a_condition_that_the_other_can_meet(service: Service) -> None:
    for name, condition in service.after.items():
        other = SERVICES[name]
        if condition == "service_healthy":
            assert other.image == OURS or "test" in other.rest["healthcheck"]
            assert not other.ends
        else:
            assert condition == "service_completed_successfully"
            assert other.ends


def test_nothing_sleeps() -> None:
    assert not [one.name for one in SERVICES.values() if "sleep" in " ".join([*one.entrypoint, *one.command])]


@pytest.mark.parametrize("service", SERVICES.values(), ids=lambda service: service.name)
def test_every_image_is_pinned_and_ours_has_the_version_of_the_source(service: Service) -> None:
    name, _, tag = service.image.rpartition(":")
    assert tag not in ("", "latest")
    assert (name == "hybrid-executor") == ("build" in service.rest)
    if name == "hybrid-executor":
        assert tag == __version__


def test_the_image_is_brought_to_the_node_under_the_name_that_pods_use() -> None:
    assert SERVICES["image"].command[-1] == BASE["image"] == OURS
    assert BASE["imagePullPolicy"] == "Never"
    [images] = [inside for inside, what in SERVICES["image"].mounts.items() if what == "images"]
    assert SERVICES["image"].command[3].startswith(f"{images}/")
    assert SERVICES["k3s"].mounts["/var/lib/rancher/k3s/agent/images"] == "images"


def test_workers_and_flower_have_no_key_and_no_database() -> None:
    for name in (*WORKERS, "flower"):
        service = SERVICES[name]
        assert "keys" not in service.mounts.values()
        assert not [
            key for key in service.environment if "DATABASE" in key or "JWT" in key or "FERNET" in key
        ]
    knowing = {name for name, one in SERVICES.items() if "passwords" in one.mounts.values()}
    assert knowing == {"secrets", "api-server", "flower"}


def test_flower_keeps_what_it_has_seen_in_a_volume() -> None:
    service = SERVICES["flower"]
    assert service.environment["FLOWER_PERSISTENT"] == "true"
    folder = service.environment["FLOWER_DB"].rpartition("/")[0]
    assert service.mounts[folder] == "flower"


def test_pods_and_workers_reach_the_api_server_at_its_fixed_address() -> None:
    address = SERVICES["api-server"].rest["networks"]["default"]["ipv4_address"]
    url = f"http://{address}:8080/execution/"
    option = "AIRFLOW__CORE__EXECUTION_API_SERVER_URL"
    assert {SERVICES[name].environment[option] for name in WORKERS} == {url}
    assert {"name": option, "value": url} in BASE["env"]
    subnet = document()["networks"]["default"]["ipam"]["config"][0]["subnet"]
    assert address.rpartition(".")[0] == subnet.rpartition(".")[0]


def test_nobody_outside_of_this_machine_reaches_it() -> None:
    ports = [port for one in SERVICES.values() for port in one.rest.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_what_pods_share_with_workers_is_the_same_volume() -> None:
    inside = {mount["name"]: mount["mountPath"] for mount in BASE["volumeMounts"]}
    for volume in TEMPLATE["spec"]["volumes"]:
        path = volume["hostPath"]["path"]
        assert SERVICES["k3s"].mounts[path] == SERVICES["worker-light"].mounts[inside[volume["name"]]]


def test_the_workers_are_those_of_the_pools_file() -> None:
    path = ROOT / "workers/compose/pools.yaml"
    for pool in parse_pools(path.read_text(), str(path)):
        command = SERVICES[f"worker-{pool.name}"].command
        options = dict(zip(command[3::2], command[4::2], strict=True))
        assert options == {
            "--queues": ",".join(pool.queues),
            "--concurrency": str(pool.concurrency),
            "--celery-hostname": f"celery@worker-{pool.name}",
        }
