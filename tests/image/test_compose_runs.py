"""The services of docker-compose.yml that run our image are well, and the example DAG is green on both.

Without an engine: each command is a process of this machine, with the wheel that
the image's build makes, the environment of the image and of the service, and the
image's health check. PostgreSQL, Redis and the cluster are those of the demo.
"""

import json
import shutil
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from hybrid_executor.standalone.stack import probes
from hybrid_executor.standalone.stack.ports import choose_port
from hybrid_executor.standalone.stack.postgres import PostgresServer
from hybrid_executor.standalone.stack.process import Command, Process
from hybrid_executor.standalone.stack.valkey import ValkeyServer
from tests.image.compose import OURS, Place, Service, services
from tests.image.conftest import DOCKERFILE, Built
from tests.image.dockerfile import ROOT, instructions, settings

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("compose")]
SERVICES = services()
IMAGE_SETTINGS = settings([one for one in instructions(DOCKERFILE) if one.stage == 2])
HEALTHY_S = 240.0
RUN_S = 240.0


@dataclass
class Up:
    """What has been started of the file."""

    built: Built
    place: Place
    ports: dict[str, int]
    database: sa.Engine
    processes: list[Process] = field(default_factory=list)
    well: dict[str, str] = field(default_factory=dict)

    def environment(self, service: Service) -> dict[str, str]:
        """That of the image, then of the service; ports are this machine's to give."""
        own = self.place.environment(service)
        ports = {
            "AIRFLOW__API__PORT": "api", "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": "health",
            "AIRFLOW__CELERY__FLOWER_PORT": "flower", "FLOWER_PORT": "flower",
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": f"logs {service.name}",
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": f"logs {service.name}",
        }  # fmt: skip
        given = {name: str(self.ports[port]) for name, port in ports.items() if port in self.ports}
        home = self.place.folder / "homes" / service.name
        home.mkdir(parents=True, exist_ok=True)
        # What the image has in AIRFLOW_HOME, and in a container nobody else's.
        local = {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.place.folder / "dags"),
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.place.mounted("logs")),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__CORE__HOSTNAME_CALLABLE": "airflow.utils.net.getfqdn",
            "AIRFLOW__CELERY__FLOWER_HOST": "127.0.0.1",
        }
        path = {"PYTHONPATH": self.built.python_path(own.get("PYTHONPATH", ""))}
        return self.built.environment | IMAGE_SETTINGS | own | given | local | path

    def run(self, service: Service, *command: str) -> "subprocess.CompletedProcess[str]":
        """A command in the service's container, as ``docker compose exec`` runs it."""
        return subprocess.run(
            command, env=self.environment(service), cwd=self.place.folder, capture_output=True, text=True,
            check=False, timeout=180,
        )  # fmt: skip

    def start(self, service: Service) -> None:
        """Start it, and wait for what those behind it wait for."""
        command = self.place.command(service)
        if service.ends:
            done = self.run(service, *command)
            assert done.returncode == 0, f"{service.name}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
            self.well[service.name] = "done"
            return
        log = self.place.folder / "logs" / f"{service.name}.log"
        env = self.environment(service)
        process = Process(Command(name=service.name, argv=command, log=log, env=env, cwd=self.place.folder))
        process.start()
        self.processes.append(process)

    def wait_well(self, service: Service, process: Process) -> None:
        """Until the image's health check says so."""
        check = [str(ROOT / "workers/healthcheck"), *service.command]
        said: list[str] = []

        def well() -> bool:
            assert process.exit_code is None, f"{service.name} has ended: {process.tail()}"
            done = self.run(service, *check)
            said[:] = [done.stdout[-2000:], done.stderr[-2000:]]
            return done.returncode == 0

        wait(well, HEALTHY_S, lambda: f"{service.name} is not well: {said}\n{process.tail()}")
        self.well[service.name] = "well"


def wait(met: Callable[[], bool], deadline_s: float, otherwise: Callable[[], object]) -> None:
    deadline = time.monotonic() + deadline_s
    while not met():
        assert time.monotonic() < deadline, otherwise()
        time.sleep(1)


@pytest.fixture(scope="module")
def up(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("compose")
    postgres, valkey = PostgresServer(folder / "postgres"), ValkeyServer(folder / "valkey")
    # Which ports they have is known from then on.
    postgres.start()
    valkey.start()
    names = ["api", "health", "flower", "kubernetes", *(f"logs {name}" for name in SERVICES)]
    ports: dict[str, int] = {}
    for name in names:
        ports[name] = choose_port(taken=frozenset(ports.values()))
    words = {
        "postgresql+psycopg2://airflow:airflow@postgres/airflow": postgres.dsn,
        "redis://redis:6379/0": valkey.url_of(0),
        "redis://redis:6379/1": valkey.url_of(1),
        "http://172.31.250.10:8080": f"http://127.0.0.1:{ports['api']}",
        "http://127.0.0.1:8080": f"http://127.0.0.1:{ports['api']}",
        "http://127.0.0.1:5555": f"http://127.0.0.1:{ports['flower']}",
        "https://127.0.0.1:6443": f"https://127.0.0.1:{ports['kubernetes']}",
        "https://k3s:6443": f"https://localhost:{ports['kubernetes']}",
        "/compose/pod_template.yaml": str(folder / "pod_template.yaml"),
        "/opt/airflow/dags": str(folder / "dags"),
    }
    running = Up(built, Place(folder, words), ports, sa.create_engine(postgres.dsn))
    shutil.copytree(ROOT / "dags", folder / "dags")
    pod_template(running)
    try:
        bring_up(running)
        yield running
    finally:
        for process in reversed(running.processes):
            process.stop()
        running.database.dispose()
        valkey.stop()
        postgres.stop()


def bring_up(up: Up) -> None:
    """The services in the file's own order; the cluster is the demo's."""
    for service in SERVICES.values():
        if service.name == "k3s":
            start_cluster(up)
        elif service.image == OURS:
            for name, condition in service.after.items():
                assert name in up.well or SERVICES[name].image != OURS, (service.name, condition)
            up.start(service)
            if not service.ends and any(service.name in one.after for one in SERVICES.values()):
                up.wait_well(service, up.processes[-1])


def start_cluster(up: Up) -> None:
    """The embedded API, and a node of processes; its kubeconfig goes where k3s writes its own."""
    state, port = up.place.folder / "cluster", str(up.ports["kubernetes"])
    kubeconfig = state / "kubeconfig"
    api = ["hybrid_executor.standalone.api", "--state", str(state), "--port", port]
    node = [
        "hybrid_executor.standalone.runner", "--kubeconfig", str(kubeconfig), "--state", str(state / "node"),
        "--name", "compose", "--bind", "--prefix", sys.prefix, "--node-token", str(state / "node-token"),
        "--tls-cert", str(state / "node.crt"), "--tls-key", str(state / "node.key"),
    ]  # fmt: skip
    for name, command, ready in (
        ("kubernetes", api, probes.kubernetes_answers(kubeconfig)),
        ("node", node, probes.node_is_ready(kubeconfig, "compose")),
    ):
        log = up.place.folder / "logs" / f"{name}.log"
        process = Process(Command(name=name, argv=[sys.executable, "-m", *command], log=log, cwd=ROOT))
        process.start()
        up.processes.append(process)
        wait(lambda ready=ready: ready(0.0), 60, process.tail)  # type: ignore[misc]
    shutil.copyfile(kubeconfig, up.place.mounted("kubeconfig") / "k3s.yaml")


def pod_template(up: Up) -> None:
    """The file's template; a node of processes has no image, so the interpreter's folder is in PATH."""
    text = (ROOT / "workers/compose/pod_template.yaml").read_text()
    for there, here in up.place.words.items():
        text = text.replace(there, here)
    template: dict[str, Any] = yaml.safe_load(text)
    [base] = template["spec"]["containers"]
    mounted = {mount["name"]: mount["mountPath"] for mount in base["volumeMounts"]}
    for volume in template["spec"]["volumes"]:
        what = SERVICES["k3s"].mounts[volume["hostPath"]["path"]]
        source = up.place.folder / "dags" if what.startswith(".") else up.place.mounted(what)
        volume["hostPath"]["path"] = str(source)
        for variable in base["env"]:
            variable["value"] = variable["value"].replace(mounted[volume["name"]], str(source))
    own = {"PATH": up.built.environment["PATH"], "AIRFLOW_HOME": str(up.place.folder / "homes/pod")}
    base["env"] = [one for one in base["env"] if one["name"] != "PYTHONPATH"]
    path = up.built.python_path(str(up.place.folder / "dags/policy"))
    base["env"] += [{"name": name, "value": value} for name, value in {**own, "PYTHONPATH": path}.items()]
    # Without images there is no other user.
    del template["spec"]["securityContext"], base["securityContext"], base["volumeMounts"]
    del template["spec"]["volumes"]
    (up.place.folder / "pod_template.yaml").write_text(yaml.safe_dump(template))


@pytest.mark.parametrize(
    "name", [one.name for one in SERVICES.values() if one.image == OURS and not one.ends]
)
def test_each_part_is_well_by_the_health_check_of_the_image(up: Up, name: str) -> None:
    [process] = [one for one in up.processes if one.command.name == name]
    up.wait_well(SERVICES[name], process)


def test_the_example_is_green_on_both_backends(up: Up) -> None:
    scheduler = SERVICES["scheduler"]
    wait(lambda: known(up, "mixed_etl"), 120, lambda: "the DAG is not found")
    triggered = up.run(scheduler, "airflow", "dags", "trigger", "mixed_etl", "--run-id", "first")
    assert triggered.returncode == 0, triggered.stderr
    wait(lambda: set(states(up)) == {"success"} and len(states(up)) == 3, RUN_S, lambda: explained(up))
    assert backends(up) == {"extract": "celery", "aggregate": "kubernetes", "report": "celery"}


def known(up: Up, dag: str) -> bool:
    with up.database.connect() as connection:
        return bool(
            connection.scalar(sa.text("SELECT 1 FROM serialized_dag WHERE dag_id = :dag"), {"dag": dag})
        )


def states(up: Up) -> list[str]:
    with up.database.connect() as connection:
        return list(connection.scalars(sa.text("SELECT state FROM task_instance WHERE run_id = 'first'")))


def backends(up: Up) -> dict[str, str]:
    query = sa.text("SELECT task_id, backend FROM hybrid_submission WHERE run_id = 'first'")
    with up.database.connect() as connection:
        return dict(connection.execute(query).all())  # type: ignore[arg-type]


def explained(up: Up) -> str:
    said = up.run(SERVICES["scheduler"], "airflow", "hybrid", "status")
    return f"{states(up)}\n{said.stdout}\n" + "\n".join(process.tail() for process in up.processes)


def test_the_doctor_finds_nothing_wrong_with_it(up: Up) -> None:
    done = up.run(SERVICES["scheduler"], "airflow", "hybrid", "doctor")
    assert done.returncode == 0, done.stdout + done.stderr


def test_flower_asks_for_the_password_of_airflow(up: Up) -> None:
    user = (up.place.mounted("passwords") / "flower").read_text()
    wrong = f"{user}-not"
    assert [flower_says(up, one) for one in ("", wrong, user)] == [401, 401, 200]


def flower_says(up: Up, user: str) -> int:
    """The status of its list of workers, asked as ``name:password``."""
    headers = {"Authorization": "Basic " + b64encode(user.encode()).decode()} if user else {}
    connection = HTTPConnection("127.0.0.1", up.ports["flower"], timeout=60)
    try:
        connection.request("GET", "/workers", headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


def test_keys_are_made_once_and_kept(up: Up) -> None:
    keys, passwords = up.place.mounted("keys"), up.place.mounted("passwords")
    before = {file: file.read_bytes() for folder in (keys, passwords) for file in folder.iterdir()}
    assert {file.name for file in before} >= {"jwt", "fernet", "session", "admin", "airflow.json", "flower"}
    assert all(not file.stat().st_mode & 0o007 for file in before)
    done = up.run(SERVICES["secrets"], *up.place.command(SERVICES["secrets"]))
    assert done.returncode == 0
    assert {file: file.read_bytes() for file in before} == before
    password = json.loads((passwords / "airflow.json").read_text())["admin"]
    assert (passwords / "flower").read_text() == f"admin:{password}"
