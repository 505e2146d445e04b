"""Everything of the contract that needs no program but Python; for ``from … import *`` in what binds it."""

from tests.contract.kube.changing import TestChanging
from tests.contract.kube.clients import TestAsynchronousPythonClient, TestPythonClient, async_core, core
from tests.contract.kube.cluster import client
from tests.contract.kube.creating import TestCreating
from tests.contract.kube.discovery import TestDiscovery
from tests.contract.kube.ending import TestBindingAndEviction, TestDeleting, TestNamespaces, TestOwners
from tests.contract.kube.kinds import TestOtherKinds
from tests.contract.kube.limits import TestLimits
from tests.contract.kube.reading import TestReading
from tests.contract.kube.running import TestLogs, TestRunning
from tests.contract.kube.watching import TestForgetting, TestWatching

__all__ = [
    "TestAsynchronousPythonClient",
    "TestBindingAndEviction",
    "TestChanging",
    "TestCreating",
    "TestDeleting",
    "TestDiscovery",
    "TestForgetting",
    "TestLimits",
    "TestLogs",
    "TestNamespaces",
    "TestOtherKinds",
    "TestOwners",
    "TestPythonClient",
    "TestReading",
    "TestRunning",
    "TestWatching",
    "async_core",
    "client",
    "core",
]
