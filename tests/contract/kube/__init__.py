"""The contract of a Kubernetes API and its node: one suite, every cluster.

A module that binds it (``tests/contract/test_kube_api.py`` to the embedded
API, ``tests/cluster/test_contract.py`` to all) imports what ``suite`` offers
and gives a fixture ``cluster``. The tests know ``cluster.Cluster`` and nothing
else: none asks which one it has. Where a real API server answers otherwise
than a test claims, the real one is right.
"""
