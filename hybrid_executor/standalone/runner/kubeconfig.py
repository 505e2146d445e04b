"""Reads a kubeconfig: the server, how to trust it, and who we are.

Called by ``__main__``. Never runs a credential plugin: a node's credentials are
files, and a kubeconfig that says otherwise is refused by name.
"""

import base64
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hybrid_executor.model.errors import ConfigError


@dataclass(frozen=True)
class Cluster:
    """Where the API is. ``token_file`` is read again for each request, since tokens rotate."""

    server: str
    tls: ssl.SSLContext | None
    token: str | None = None
    token_file: Path | None = None

    def bearer(self) -> str | None:
        if self.token_file is not None:
            return self.token_file.read_text().strip()
        return self.token


def load(path: Path) -> Cluster:
    """The cluster of the current context; ConfigError lists what is wrong."""
    try:
        document = yaml.safe_load(path.read_text())
        context = _named(document, "contexts", document["current-context"])["context"]
        cluster = _named(document, "clusters", context["cluster"])["cluster"]
        user = _named(document, "users", context["user"]).get("user") or {}
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError([f"{path}: not a readable kubeconfig: {error!r}"]) from error
    unsupported = sorted({"exec", "auth-provider", "username"} & set(user))
    if unsupported:
        raise ConfigError(
            [f"{path}: user {context['user']}: {name} is not supported" for name in unsupported]
        )
    token_file = user.get("tokenFile")
    return Cluster(
        server=cluster["server"].rstrip("/"),
        tls=_tls(cluster, user, path.parent) if cluster["server"].startswith("https:") else None,
        token=user.get("token"),
        token_file=path.parent / token_file if token_file else None,
    )


def _named(document: Mapping[str, Any], kind: str, name: str) -> dict[str, Any]:
    for entry in document[kind]:
        if entry["name"] == name:
            return dict(entry)
    raise KeyError(f"{kind}: {name}")


def _tls(cluster: Mapping[str, Any], user: Mapping[str, Any], folder: Path) -> ssl.SSLContext:
    authority = _pem(cluster, "certificate-authority", folder)
    context = ssl.create_default_context(cadata=authority.decode() if authority else None)
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    certificate, key = _pem(user, "client-certificate", folder), _pem(user, "client-key", folder)
    if certificate and key:
        # The ssl module loads a chain from files only; this one is 0600 and gone at once.
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:
            file.write(certificate + b"\n" + key)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def _pem(source: Mapping[str, Any], name: str, folder: Path) -> bytes | None:
    if data := source.get(f"{name}-data"):
        return base64.b64decode(data)
    return (folder / source[name]).read_bytes() if source.get(name) else None
