"""Contracts: what a port, an API, a ledger or a node promises, over everything that implements it."""

import pytest

pytest.register_assert_rewrite("tests.contract.kube")
