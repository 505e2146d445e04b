"""Reads the scalars of a pod manifest the way Airflow's own reading does.

The stock executor passes every template through the Kubernetes client's
models, which turn ``value: 1`` into ``"1"``, ``runAsUser: "1000"`` into
``1000`` and drop what is null; the API server takes none of these as they
stand. Templates that work there work here, so the same is done to plain data.
A contract test holds these names against the client's own models. Never looks
at a structure beyond that; ``template`` and ``overlay`` call it.
"""

from collections.abc import Callable
from datetime import date
from typing import Any

Path = tuple[str | int, ...]
Report = Callable[[Path, str], None]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


INTEGERS = _names(
    """activeDeadlineSeconds containerPort defaultMode deletionGracePeriodSeconds expirationSeconds
    failureThreshold fsGroup generation hostPort initialDelaySeconds lun maxExpirationSeconds maxSkew
    minDomains mode partition periodSeconds priority runAsGroup runAsUser seconds successThreshold
    supplementalGroups terminationGracePeriodSeconds timeoutSeconds tolerationSeconds weight"""
)
BOOLEANS = _names(
    """allowPrivilegeEscalation automountServiceAccountToken blockOwnerDeletion chapAuthDiscovery
    chapAuthSession controller enableServiceLinks hostIPC hostNetwork hostPID hostProcess hostUsers optional
    privileged readOnly readOnlyRootFilesystem runAsNonRoot setHostnameAsFQDN shareProcessNamespace
    sslEnabled stdin stdinOnce tty"""
)
#: Mappings whose keys are the user's and whose values are text.
STRING_MAPS = _names(
    """annotations labels limits matchLabels nodeSelector overhead requests userAnnotations
    volumeAttributes"""
)
#: Text in which YAML easily sees a number, a truth value or a date.
STRINGS = _names("args command divisor key mountPath name path sizeLimit subPath value")


def as_client_reads(value: Any, report: Report, path: Path = ()) -> Any:
    """A copy of ``value`` with the client's conversions; what can't be converted is reported."""
    field = next((part for part in reversed(path) if isinstance(part, str)), "")
    if isinstance(value, dict):
        if field in STRING_MAPS:
            return {str(key): _text_or_null(item, report, (*path, key)) for key, item in value.items()}
        return {
            str(key): as_client_reads(item, report, (*path, str(key)))
            for key, item in value.items()
            if item is not None
        }
    if isinstance(value, list | tuple):
        return [as_client_reads(item, report, (*path, index)) for index, item in enumerate(value)]
    return _scalar(field, value, report, path)


def _scalar(field: str, value: Any, report: Report, path: Path) -> Any:
    if field in INTEGERS and not isinstance(value, int):
        return _integer(value, report, path)
    if field in BOOLEANS and not isinstance(value, bool):
        report(path, f"must be true or false without quotes, not {value!r}")
    if field in STRINGS and not isinstance(value, str):
        return _text_or_null(value, report, path)
    return value.isoformat() if isinstance(value, date) else value


def _integer(value: Any, report: Report, path: Path) -> Any:
    try:
        return int(value)
    except (TypeError, ValueError):
        report(path, f"must be a whole number, not {value!r}")
        return value


def _text_or_null(value: Any, report: Report, path: Path) -> Any:
    if isinstance(value, dict | list):
        report(path, f"must be text, not a {'mapping' if isinstance(value, dict) else 'list'}")
    return value if value is None or isinstance(value, str) else str(value)
