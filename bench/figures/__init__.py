"""One module for each figure; ``ALL`` has them in the order in which they are run."""

from importlib import import_module

from bench.figure import Figure

NAMES = (
    "publish",
    "handover",
    "signing",
    "heartbeat_idle",
    "heartbeat_paced",
    "heartbeat_ends",
    "podbuild",
    "podcreate",
    "memory",
    "podthrough",
    "restart",
    "growth_inflight",
    "growth_ledger",
    "starting",
    "podqueued",
    "mixed",
)
ALL: list[Figure] = [import_module(f"bench.figures.{name}").FIGURE for name in NAMES]
