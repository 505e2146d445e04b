"""Fixtures stand in ``tests/fixtures``, one module per thing that they start."""

from hypothesis import settings

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
