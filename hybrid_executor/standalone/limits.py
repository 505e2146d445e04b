"""What the embedded cluster does not do, and what it answers instead: the one list of it.

Pure. ``api.http`` answers from it, and the runner's server those of a node; the page
``docs/reference/embedded-cluster.md`` is generated from it; a contract test asks for every
entry, which is refused here in these words and works on a real cluster.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

APPLY_PATCH = "application/apply-patch+yaml"
_API = "the embedded Kubernetes API"
_NODE = "a node of local processes"


@dataclass(frozen=True, slots=True)
class Limit:
    """Something that a real cluster does and this one refuses."""

    name: str
    #: The code and the reason of the ``Status`` that is the answer.
    code: int
    reason: str
    #: Stands in the answer's message.
    words: str


def _not_implemented(name: str, words: str) -> Limit:
    return Limit(name, 501, "NotImplemented", words)


#: Refused by the runner as well, when a real API server passes them on to it.
OF_NODES: Mapping[str, Limit] = {
    name: _not_implemented(f"pods/{name}", f"{_NODE} does not serve {name}")
    for name in ("exec", "attach", "portforward")
}

#: By kind and name.
SUBRESOURCES: Mapping[tuple[str, str], Limit] = {
    (kind, name): _not_implemented(f"{kind}/{name}", f"{_API} does not serve {kind}/{name}: {why}")
    for kind, name, why in (
        ("pods", "proxy", "pods listen on this machine's own loopback address"),
        ("pods", "ephemeralcontainers", "look at a pod's processes with this machine's own tools"),
        ("pods", "resize", "its nodes do not change a container that runs"),
        ("nodes", "proxy", "a node's log endpoint is asked through pods/log alone"),
        (
            "serviceaccounts",
            "token",
            "no account may do less than another",
        ),
        ("namespaces", "finalize", "a namespace ends when it is empty"),
    )
} | {("pods", name): limit for name, limit in OF_NODES.items()}

SERVER_SIDE_APPLY = Limit(
    "server-side apply",
    415,
    "UnsupportedMediaType",
    f"{_API} keeps no managed fields: use a JSON, merge or strategic merge patch",
)
BODIES = Limit(
    "bodies in YAML, CBOR or Protobuf", 415, "UnsupportedMediaType", f"{_API} reads and writes JSON alone"
)
ANSWERS = Limit(
    "answers in YAML, CBOR or Protobuf", 406, "NotAcceptable", f"{_API} reads and writes JSON alone"
)
FOREGROUND = _not_implemented(
    "deletion in the foreground", f"{_API} deletes dependents in the background: Background or Orphan"
)
IMPERSONATION = _not_implemented(
    "impersonation", f"{_API} has no RBAC, so nobody can be asked for in another's name"
)
OPENAPI_V2 = Limit(
    "OpenAPI v2", 404, "NotFound", f"{_API} publishes no schemas; /openapi/v3 names paths alone"
)
#: No refusal: the object is kept, and a ``Warning`` says what was not looked at.
FIELD_VALIDATION = Limit(
    "strict field validation", 201, "", f"{_API} knows no schemas: unknown fields were not looked for"
)

_CONTROLLERS = "nothing would act on them, since it has no controllers"
_RBAC = "it has no RBAC"
_UNKNOWN_KINDS: tuple[tuple[str, str, str], ...] = (
    ("", "services endpoints", "it has no service network"),
    ("", "persistentvolumes persistentvolumeclaims", "its nodes give no claims"),
    ("", "replicationcontrollers podtemplates", _CONTROLLERS),
    ("", "resourcequotas limitranges", "it has no admission control"),
    ("apps", "deployments replicasets statefulsets daemonsets controllerrevisions", _CONTROLLERS),
    ("batch", "jobs cronjobs", _CONTROLLERS),
    ("autoscaling", "horizontalpodautoscalers", _CONTROLLERS),
    ("policy", "poddisruptionbudgets", "evictions always succeed"),
    ("rbac.authorization.k8s.io", "roles rolebindings clusterroles clusterrolebindings", _RBAC),
    ("networking.k8s.io", "networkpolicies ingresses ingressclasses", "it has no service network"),
    ("discovery.k8s.io", "endpointslices", "it has no service network"),
    ("scheduling.k8s.io", "priorityclasses", "it has no preemption"),
    ("storage.k8s.io", "storageclasses volumeattachments csidrivers csinodes", "its nodes give no claims"),
    ("node.k8s.io", "runtimeclasses", "its nodes run processes"),
    ("events.k8s.io", "events", "events are kept in v1"),
    ("certificates.k8s.io", "certificatesigningrequests", "it signs no certificates"),
    (
        "admissionregistration.k8s.io",
        "mutatingwebhookconfigurations validatingwebhookconfigurations validatingadmissionpolicies",
        "it has no admission control",
    ),
    ("apiextensions.k8s.io", "customresourcedefinitions", "its kinds are fixed"),
    ("apiregistration.k8s.io", "apiservices", "it aggregates no other server"),
    ("flowcontrol.apiserver.k8s.io", "flowschemas prioritylevelconfigurations", "it throttles nobody"),
)
_UNKNOWN_REVIEWS: tuple[tuple[str, str, str], ...] = (
    ("authentication.k8s.io", "tokenreviews selfsubjectreviews", "it knows one token"),
    (
        "authorization.k8s.io",
        "subjectaccessreviews localsubjectaccessreviews selfsubjectrulesreviews",
        _RBAC,
    ),
)


def _unknown(table: tuple[tuple[str, str, str], ...]) -> Iterator[tuple[tuple[str, str], Limit]]:
    for group, plurals, why in table:
        for plural in plurals.split():
            name = f"{plural}.{group}" if group else plural
            yield (group, plural), Limit(name, 404, "NotFound", f"{_API} keeps no {name}: {why}")


#: Kinds that every cluster has, by group and plural; answered with 404, as clients expect it of unknown ones.
KINDS: Mapping[tuple[str, str], Limit] = dict(_unknown(_UNKNOWN_KINDS))
REVIEWS: Mapping[tuple[str, str], Limit] = dict(_unknown(_UNKNOWN_REVIEWS))

OPTIONS = (
    SERVER_SIDE_APPLY,
    BODIES,
    ANSWERS,
    FOREGROUND,
    IMPERSONATION,
    OPENAPI_V2,
    FIELD_VALIDATION,
)
ALL: tuple[Limit, ...] = (*SUBRESOURCES.values(), *OPTIONS, *KINDS.values(), *REVIEWS.values())


def at(path: str) -> Limit | None:
    """The limit that a path runs into, if it names something of every cluster that is not served here."""
    if path.startswith("/openapi/v2"):
        return OPENAPI_V2
    steps = path.strip("/").split("/")
    if steps[:2] == ["api", "v1"]:
        group, rest = "", steps[2:]
    elif steps[0] == "apis" and len(steps) > 3:
        group, rest = steps[1], steps[3:]
    else:
        return None
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        rest = rest[2:]
    place = (group, rest[0]) if rest else ("", "")
    return KINDS.get(place) or REVIEWS.get(place)
