"""Fixtures stand in ``tests/fixtures``, one module per thing that they start."""

import os

from hypothesis import settings

from hybrid_executor.standalone.stack import ports

pytest_plugins = [
    "tests.fixtures.airflow_side",
    "tests.fixtures.browser",
    "tests.fixtures.servers",
    "tests.fixtures.settings",
    "tests.fixtures.kube",
    "tests.fixtures.helm",
    "tests.fixtures.mariadb",
    "tests.fixtures.live",
    "tests.fixtures.node",
    "tests.fixtures.page",
    "tests.fixtures.redis_server",
    "tests.fixtures.site",
    "tests.fixtures.stack",
    "tests.fixtures.stock",
    "tests.fixtures.stock_worker",
    "tests.fixtures.valkeys",
    "tests.cluster.fixture",
    "tests.cluster.backend",
    "tests.cluster.given",
    "tests.cluster.kubelet.fixture",
    "tests.cluster.contract_counts",
]

# A busy machine makes an example slow, not wrong.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# A port is chosen some time before a server takes it: workers that start stacks at once choose from
# ports of their own.
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    ports.CHOICES = ports.CHOICES[int(worker.removeprefix("gw")) :: workers]
