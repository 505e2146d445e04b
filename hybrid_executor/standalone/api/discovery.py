"""The documents by which clients find out what is served. Pure: made from ``kinds``."""

from collections.abc import Iterable, Mapping
from typing import Any

from hybrid_executor.standalone.api.kinds import KINDS, READ_WRITE, Kind

Body = dict[str, Any]

#: The release of Kubernetes whose behaviour this API follows.
VERSION = ("1", "36")
_ACCESS_REVIEW = ("authorization.k8s.io", "v1")


def version() -> Body:
    """``/version``."""
    major, minor = VERSION
    return {"major": major, "minor": minor, "gitVersion": f"v{major}.{minor}.0+embedded", "platform": "linux"}


def documents() -> Mapping[str, Body]:
    """Every discovery document by its path."""
    found = {"/version": version(), "/api": _core_versions(), "/apis": _groups()}
    found["/api/v1"] = _resources("v1", [kind for kind in KINDS if not kind.group])
    for group in sorted({kind.group for kind in KINDS if kind.group}):
        found[f"/apis/{group}"] = {"kind": "APIGroup", "apiVersion": "v1", **_group(group, "v1")}
        members = [kind for kind in KINDS if kind.group == group]
        found[f"/apis/{group}/v1"] = _resources(f"{group}/v1", members)
    found |= _openapi()
    group, release = _ACCESS_REVIEW
    found[f"/apis/{group}"] = {"kind": "APIGroup", "apiVersion": "v1", **_group(group, release)}
    found[f"/apis/{group}/{release}"] = _access_reviews()
    return found


def _core_versions() -> Body:
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def _groups() -> Body:
    groups = sorted({kind.group for kind in KINDS if kind.group} | {_ACCESS_REVIEW[0]})
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name, "v1") for name in groups]}


def _group(name: str, release: str) -> Body:
    served = {"groupVersion": f"{name}/{release}", "version": release}
    return {"name": name, "versions": [served], "preferredVersion": served}


def _resources(group_version: str, kinds: Iterable[Kind]) -> Body:
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": [entry for kind in kinds for entry in _entries(kind)],
    }


def _entries(kind: Kind) -> Iterable[Body]:
    yield {
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": list(READ_WRITE),
        "shortNames": list(kind.short),
    }
    for name, verbs in kind.subresources:
        entry: Body = {
            "name": f"{kind.plural}/{name}",
            "singularName": "",
            "namespaced": kind.namespaced,
            "kind": {"binding": "Binding", "eviction": "Eviction"}.get(name, kind.kind),
            "verbs": list(verbs),
        }
        yield entry | ({"group": "policy", "version": "v1"} if name == "eviction" else {})


def _access_reviews() -> Body:
    review = {
        "name": "selfsubjectaccessreviews",
        "singularName": "selfsubjectaccessreview",
        "namespaced": False,
        "kind": "SelfSubjectAccessReview",
        "verbs": ["create"],
    }
    group, release = _ACCESS_REVIEW
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": f"{group}/{release}",
        "resources": [review],
    }


def access_review(body: Mapping[str, Any]) -> Body:
    """The answer to "may I?": there is no RBAC, so yes."""
    status = {"allowed": True, "reason": "the embedded Kubernetes API has no RBAC"}
    kind = {"kind": "SelfSubjectAccessReview", "apiVersion": "/".join(_ACCESS_REVIEW)}
    return {**kind, "metadata": {}, **body, "status": status}


def _openapi() -> dict[str, Body]:
    """OpenAPI v3 without schemas: enough for kubectl to leave validation to the server."""
    found: dict[str, Body] = {}
    index: Body = {}
    for group_version in sorted({kind.api_version for kind in KINDS}):
        name = f"apis/{group_version}" if "/" in group_version else f"api/{group_version}"
        members = [kind for kind in KINDS if kind.api_version == group_version]
        index[name] = {"serverRelativeURL": f"/openapi/v3/{name}"}
        found[f"/openapi/v3/{name}"] = {
            "openapi": "3.0.0",
            "info": {"title": "hybrid_executor embedded Kubernetes API", "version": version()["gitVersion"]},
            "paths": {_object_path(name, kind): {"patch": _patch_operation(kind)} for kind in members},
            "components": {"schemas": {}},
        }
    return found | {"/openapi/v3": {"paths": index}}


def _object_path(prefix: str, kind: Kind) -> str:
    inside = "namespaces/{namespace}/" if kind.namespaced else ""
    return f"/{prefix}/{inside}{kind.plural}/{{name}}"


def _patch_operation(kind: Kind) -> Body:
    names = ("dryRun", "fieldManager", "fieldValidation")
    return {
        "parameters": [
            {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}} for name in names
        ],
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": {
            "group": kind.group,
            "version": kind.version,
            "kind": kind.kind,
        },
    }
