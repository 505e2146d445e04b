"""A pytest plugin for a mutated run: proves whose code ran, and writes down which test failed and how.

Loaded by ``-p tests.mutants.witness`` in the mutated copy; ``run`` reads the report.
"""

import json
import os
from pathlib import Path

import pytest

REPORT = "MUTANT_REPORT"
COPY = "MUTANT_COPY"

_failures: list[dict[str, str]] = []


def pytest_configure() -> None:
    """Refuse to run against anything but the copy, e.g. the package as it is installed."""
    import hybrid_executor

    loaded, copy = Path(hybrid_executor.__file__), Path(os.environ[COPY])
    if copy not in loaded.parents:
        raise pytest.UsageError(f"{loaded} was imported, which is not in {copy}")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep each failure with its phase: one in the set-up proves nothing."""
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        words = str(crash.message if crash else report.longrepr).strip().splitlines()
        _failures.append(
            {"test": report.nodeid, "phase": report.when or "", "words": words[0] if words else ""}
        )


def pytest_sessionfinish() -> None:
    """Write the report."""
    Path(os.environ[REPORT]).write_text(json.dumps(_failures), encoding="utf-8")
