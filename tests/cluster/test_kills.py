"""Kill -9 in the middle of runs whose pods are on a real control plane.

A few of the kills that ``make chaos`` makes: one random moment, both gaps that concern
a pod alone, and the API server itself. ``make test-cluster KILLS=all SCHEDULERS=5 ARGS="-k kills"``
makes all, five of them at random moments.
"""

import os

import pytest

from tests.chaos.kill_suite import GAPS, SERVICES, OutageSuite, SchedulerKillSuite, parametrize

pytestmark = pytest.mark.timeout(600)

#: A pod that the ledger does not know yet, and an end that it does not know yet.
FEW_GAPS = ("the pod's creation and its Secret", "the event and the ledger")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Few, unless all are wanted."""
    if os.environ.get("CHAOS_KILLS") == "all":
        parametrize(metafunc, int(os.environ.get("CHAOS_SEEDS") or 5), list(GAPS), SERVICES)
    else:
        parametrize(metafunc, 1, FEW_GAPS, ["kubernetes"])


class TestSchedulerKillsOnARealControlPlane(SchedulerKillSuite):
    """Nothing runs twice."""


class TestOutagesOnARealControlPlane(OutageSuite):
    """A kube-apiserver that dies takes no run with it."""
