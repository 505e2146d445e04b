"""``airflow hybrid doctor``: one line per check; exits with 1 if anything is wrong."""

import json
from argparse import Namespace

from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded

from hybrid_executor.doctor import Finding, examine
from hybrid_executor.settings import load_settings


@suppress_logs_and_warning
@providers_configuration_loaded
def doctor(args: Namespace) -> None:
    """Print the findings as they come, or all of them as JSON."""
    findings = []
    for finding in examine(load_settings()):
        findings.append(finding)
        if not args.json:
            print(_line(finding), flush=True)
    if args.json:
        print(json.dumps([_plain(finding) for finding in findings], indent=2))
    wrong = sum(not finding.ok for finding in findings)
    if wrong:
        raise SystemExit(1 if args.json else f"{wrong} of {len(findings)} checks found a problem")


def _line(finding: Finding) -> str:
    if finding.ok:
        return f"ok       {finding.check}" + (f" ({finding.note})" if finding.note else "")
    return f"problem  {finding.check}: {finding.problem}"


def _plain(finding: Finding) -> dict[str, object]:
    return {
        "check": finding.check,
        "ok": finding.ok,
        "problem": finding.problem,
        "note": finding.note or None,
    }
