"""A pod template: read once, checked as a whole, then copied for every pod.

Knows the shape that the executor relies on and reports every departure from
it with file, line and field; all else is for the API server to judge. Never
opens a file: the caller brings the text. Called by the Kubernetes backend's
keeper of templates.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from hybrid_executor.model.errors import ConfigError
from hybrid_executor.pods.fields import Path, Report, as_client_reads

#: The container that runs the task; ``pod_override`` is merged into the first by position.
BASE = "base"
#: What ``[kubernetes_executor] pod_template_file`` means when it is empty.
MINIMAL_TEMPLATE = """\
apiVersion: v1
kind: Pod
metadata: {}
spec:
  restartPolicy: Never
  containers:
    - name: base
"""
_TOP_LEVEL = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})
#: Lists of named things, by the place in which they stand.
_NAMED_IN_SPEC = ("containers", "initContainers", "volumes", "imagePullSecrets")
_CONTAINERS = ("containers", "initContainers")


@dataclass(frozen=True, slots=True)
class PodTemplate:
    """A checked template. Immutable: it is held as text, and each ``document`` is a fresh copy."""

    #: Where it came from, for messages: a path.
    source: str
    #: The manifest as JSON.
    text: str

    def document(self) -> dict[str, Any]:
        """A private copy of the manifest, free to be changed."""
        document: dict[str, Any] = json.loads(self.text)
        return document


def parse_template(text: str, source: str) -> PodTemplate:
    """Read and check a template; ``ConfigError`` lists all its problems, one line each."""
    problems = _Problems(source)
    document = problems.read(text)
    if not problems.found:
        document = as_client_reads(document, problems.add)
        _check(document, problems.add)
    if problems.found:
        raise ConfigError(problems.found)
    return PodTemplate(source, json.dumps({"apiVersion": "v1", "kind": "Pod", **document}))


def manifest_problems(document: Any) -> list[tuple[Path, str]]:
    """What is wrong with a manifest that has been read already, each with its field."""
    found: list[tuple[Path, str]] = []
    _check(document, lambda path, message: found.append((path, message)))
    return found


class _Problems:
    """Collects problems and knows the line of each field."""

    def __init__(self, source: str) -> None:
        self.found: list[str] = []
        self._source = source
        self._root: yaml.Node | None = None

    def read(self, text: str) -> Any:
        """The YAML document as plain data; a problem where the text is no single YAML document."""
        try:
            loader = yaml.SafeLoader(text)
            self._root = loader.get_single_node()
            document = loader.construct_document(self._root) if self._root else None
            json.dumps(document, default=str)
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            self.found.append(f"{self._source}:{line}: not valid YAML: {error.problem or error.context}")
        except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
            self.found.append(f"{self._source}:1: not valid YAML: {error}")
        else:
            return document
        return None

    def add(self, path: Path, message: str) -> None:
        where = f"{self._source}:{self._line(path)}"
        self.found.append(f"{where}: {field_name(path)}: {message}" if path else f"{where}: {message}")

    def _line(self, path: Path) -> int:
        node, line = self._root, 1
        for part in path:
            step = _child(node, part)
            if step is None:
                break
            node, line = step
        return line


def _child(node: yaml.Node | None, part: str | int) -> tuple[yaml.Node, int] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return value, key.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        item = node.value[part]
        return item, item.start_mark.line + 1
    return None


def field_name(path: Path) -> str:
    """``spec.containers[0].name``, as Kubernetes writes it."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _check(document: Any, report: Report) -> None:
    if not isinstance(document, Mapping):
        report((), "a pod template is a mapping with kind, metadata and spec")
        return
    for key in sorted(document.keys() - _TOP_LEVEL):
        report((key,), f"unknown; a Pod has {', '.join(sorted(_TOP_LEVEL))}")
    for key, wanted in (("apiVersion", "v1"), ("kind", "Pod")):
        if document.get(key, wanted) != wanted:
            report((key,), f"must be {wanted}, not {document[key]!r}")
    _check_metadata(document.get("metadata", {}), report)
    spec = document.get("spec")
    if isinstance(spec, Mapping):
        _check_spec(spec, report)
    else:
        report(("spec",), "must be a mapping with containers")


def _check_metadata(metadata: Any, report: Report) -> None:
    if not isinstance(metadata, Mapping):
        report(("metadata",), "must be a mapping")
        return
    for key in ("labels", "annotations"):
        if not isinstance(metadata.get(key, {}), Mapping):
            report(("metadata", key), "must be a mapping")


def _check_spec(spec: Mapping[str, Any], report: Report) -> None:
    for key in _NAMED_IN_SPEC:
        _check_named(spec.get(key, []), ("spec", key), report)
    for key in _CONTAINERS:
        containers = spec.get(key, [])
        for index, container in enumerate(containers if isinstance(containers, list) else []):
            if isinstance(container, Mapping):
                _check_named(container.get("env", []), ("spec", key, index, "env"), report)
    names = [name for key in _CONTAINERS for name in _names(spec.get(key))]
    for name in sorted({name for name in names if names.count(name) > 1}):
        report(("spec", "containers"), f"more than one container is named {name!r}")
    main = _names(spec.get("containers"))
    if BASE not in main:
        report(("spec", "containers"), f"needs a container named `{BASE}`, which runs the task")
    elif main[0] != BASE:
        at = ("spec", "containers", main.index(BASE))
        report(at, f"`{BASE}` must be the first container: pod_override is merged by position")


def _names(containers: Any) -> list[str]:
    items = containers if isinstance(containers, list) else []
    return [str(item["name"]) for item in items if isinstance(item, Mapping) and "name" in item]


def _check_named(items: Any, path: Path, report: Report) -> None:
    if not isinstance(items, list):
        report(path, "must be a list")
        return
    for index, item in enumerate(items):
        if not isinstance(item, Mapping) or not item.get("name"):
            report((*path, index), "must be a mapping with a name")
