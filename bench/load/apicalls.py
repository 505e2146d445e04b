"""What an API server says of the requests that it had, by verb and resource. Pure.

Reads ``apiserver_request_total`` as ``/metrics`` of a real one has it;
``bench.load.api`` writes the same. A watch counts when it ends on a real server.
"""

import re
from collections import Counter
from collections.abc import Mapping

_LINE = re.compile(r"^apiserver_request_total\{(.*)\} (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
NAME = "apiserver_request_total"


def calls_of(text: str) -> Counter[str]:
    """Requests so far, by ``VERB resource`` or ``VERB resource/subresource``; others are left out."""
    found: Counter[str] = Counter()
    for labels, value in _LINE.findall(text):
        named = dict(_LABEL.findall(labels))
        if resource := named.get("resource"):
            where = f"{resource}/{named['subresource']}" if named.get("subresource") else resource
            found[f"{named.get('verb', '')} {where}"] += int(float(value))
    return found


def text_of(calls: Mapping[str, int]) -> str:
    """The reverse of ``calls_of``."""
    lines = []
    for name, value in sorted(calls.items()):
        verb, _, where = name.partition(" ")
        resource, _, subresource = where.partition("/")
        labels = f'verb="{verb}",resource="{resource}",subresource="{subresource}"'
        lines.append(f"{NAME}{{{labels}}} {value}\n")
    return "".join(lines)


#: What an executor speaks of. A node's word is ``pods/status``, a scheduler's ``pods/binding``.
_OF_EXECUTORS = frozenset({"pods", "secrets"})


def of_executors(calls: Mapping[str, int]) -> dict[str, int]:
    """Those about pods and their Secrets; a node's own list and watch of pods are in it."""
    return {name: value for name, value in calls.items() if name.partition(" ")[2] in _OF_EXECUTORS}
