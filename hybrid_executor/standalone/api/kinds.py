"""Which kinds of object are served, and under which names.

A table and look-ups in it; discovery, paths and messages are made from it.
"""

from dataclasses import dataclass

READ_WRITE = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
_STATUS = (("status", ("get", "patch", "update")),)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object. ``plural`` is unique among those served."""

    plural: str
    kind: str
    group: str = ""
    version: str = "v1"
    namespaced: bool = True
    short: tuple[str, ...] = ()
    #: Name and verbs of each subresource.
    subresources: tuple[tuple[str, tuple[str, ...]], ...] = ()
    #: Names in paths and messages are DNS subdomains, unless the kind is stricter.
    label_names: bool = False

    @property
    def api_version(self) -> str:
        """``v1`` or ``group/version``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """``pods`` or ``leases.coordination.k8s.io``, as messages have it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def singular(self) -> str:
        """``pod``."""
        return self.kind.lower()


PODS = Kind(
    "pods",
    "Pod",
    short=("po",),
    subresources=(
        *_STATUS,
        ("log", ("get",)),
        ("binding", ("create",)),
        ("eviction", ("create",)),
    ),
)
NAMESPACES = Kind(
    "namespaces", "Namespace", namespaced=False, short=("ns",), subresources=_STATUS, label_names=True
)
NODES = Kind("nodes", "Node", namespaced=False, short=("no",), subresources=_STATUS)
EVENTS = Kind("events", "Event", short=("ev",))
CONFIGMAPS = Kind("configmaps", "ConfigMap", short=("cm",))
SECRETS = Kind("secrets", "Secret")
SERVICEACCOUNTS = Kind("serviceaccounts", "ServiceAccount", short=("sa",))
LEASES = Kind("leases", "Lease", group="coordination.k8s.io")

KINDS = (PODS, NAMESPACES, NODES, EVENTS, CONFIGMAPS, SECRETS, SERVICEACCOUNTS, LEASES)
_BY_PLACE = {(kind.group, kind.version, kind.plural): kind for kind in KINDS}


def find(group: str, version: str, plural: str) -> Kind | None:
    """The kind served under that place, if any."""
    return _BY_PLACE.get((group, version, plural))
