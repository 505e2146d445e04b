"""What is wrong with a name, a label or an annotation's key. Pure; the words are kube-apiserver's."""

import re
from collections.abc import Iterable

from hybrid_executor.standalone.api.kinds import Kind
from hybrid_executor.standalone.api.problems import Cause, invalid, required

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")

LABEL_MAX = 63
SUBDOMAIN_MAX = 253
_SUBDOMAIN_RULE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
    "start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
_LABEL_RULE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start "
    "and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
_VALUE_RULE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must "
    "start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used "
    "for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
_QUALIFIED_RULE = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
    "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)


def name_problems(kind: Kind, name: str) -> Iterable[Cause]:
    """What is wrong with a name."""
    if not name:
        yield required("metadata.name", "name or generateName is required")
    elif kind.label_names:
        yield from dns_label_problems("metadata.name", name)
    elif len(name) > SUBDOMAIN_MAX:
        yield invalid("metadata.name", name, f"must be no more than {SUBDOMAIN_MAX} bytes")
    elif not _SUBDOMAIN.fullmatch(name):
        yield invalid("metadata.name", name, _SUBDOMAIN_RULE)


def dns_label_problems(field: str, value: str) -> Iterable[Cause]:
    """What is wrong with a DNS label."""
    if len(value) > LABEL_MAX:
        yield invalid(field, value, f"must be no more than {LABEL_MAX} bytes")
    elif not _LABEL.fullmatch(value):
        yield invalid(field, value, _LABEL_RULE)


def key_problems(field: str, key: str) -> Iterable[Cause]:
    """What is wrong with the key of a label or annotation."""
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > SUBDOMAIN_MAX or not _SUBDOMAIN.fullmatch(prefix)):
        yield invalid(field, key, f"prefix part {_SUBDOMAIN_RULE}")
    if not name:
        yield invalid(field, key, "name part must be non-empty")
    elif len(name) > LABEL_MAX:
        yield invalid(field, key, f"name part must be no more than {LABEL_MAX} bytes")
    elif not _QUALIFIED.fullmatch(name):
        yield invalid(field, key, _QUALIFIED_RULE)


def label_problems(field: str, key: str, value: str) -> Iterable[Cause]:
    """What is wrong with a label."""
    yield from key_problems(field, key)
    if len(value) > LABEL_MAX:
        yield invalid(field, value, f"must be no more than {LABEL_MAX} bytes")
    elif not _LABEL_VALUE.fullmatch(value):
        yield invalid(field, value, _VALUE_RULE)
