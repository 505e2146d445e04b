"""Says at the end how many tests of the contract ran over each target, and fails where they differ.

A target that could not run here at all is said to be so (``kubelet.fixture`` names
its tests); one that ran some tests and not others fails the run. A plugin.
"""

import re
from collections import defaultdict
from dataclasses import dataclass, field

import pytest

#: File, test, and the group that xdist appends.
_NODE_ID = re.compile(r"tests/cluster/test_contract_(\w+)\.py::(.+?)(?:@[\w-]+)?")


@dataclass
class Target:
    """What became of the tests over one cluster."""

    ran: set[str] = field(default_factory=set)
    passed: int = 0
    skipped: int = 0


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that is green and not whole."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and differences(targets(reporter)) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each target, and one for each test that ran over some alone."""
    found = targets(terminalreporter)
    if not found:
        return
    terminalreporter.section("the contract of API and node: tests run over each target")
    for name, target in sorted(found.items()):
        skipped = f", {target.skipped} not run here" if target.skipped else ""
        terminalreporter.line(f"{name:10} {len(target.ran):4} run, {target.passed:4} passed{skipped}")
    for line in differences(found):
        terminalreporter.line(line, red=True)


def targets(reporter: pytest.TerminalReporter) -> dict[str, Target]:
    """The targets by name, from the reports of their tests."""
    found: dict[str, Target] = defaultdict(Target)
    for outcome in ("passed", "failed", "skipped"):
        for report in reporter.getreports(outcome):
            _note(found, report)
    return found


def _note(found: dict[str, Target], report: pytest.TestReport) -> None:
    match = _NODE_ID.fullmatch(report.nodeid)
    if match is None:
        return
    target = found[match[1]]
    target.skipped += report.outcome == "skipped"
    if report.when == "call" and report.outcome != "skipped":
        target.ran.add(match[2])
        target.passed += report.outcome == "passed"


def differences(found: dict[str, Target]) -> list[str]:
    """The tests that ran over some targets and not over others that ran any."""
    able = {name: target for name, target in found.items() if target.ran}
    every = set().union(*(target.ran for target in able.values()))
    return [
        f"not run over {name}: {test}"
        for name, target in sorted(able.items())
        for test in sorted(every - target.ran)
    ]
