"""Fixtures stand in ``tests/fixtures``, one module per thing that they start."""

pytest_plugins = ["tests.fixtures.servers", "tests.fixtures.kube", "tests.fixtures.node"]
