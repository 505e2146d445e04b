"""The state folder: the cluster's CA, its certificates and tokens, and the kubeconfig.

Everything is made once and kept, so that clients of an earlier start go on
working. Every file is private to its owner from the moment it exists. Used by
``server``; no request is decided here.
"""

import base64
import json
import os
import secrets
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HOST = "127.0.0.1"
_LIFE = timedelta(days=3650)
_NAMES = (
    x509.DNSName("localhost"),
    x509.DNSName("kubernetes"),
    x509.DNSName("kubernetes.default.svc"),
    x509.IPAddress(IPv4Address(HOST)),
)


@dataclass(frozen=True, slots=True)
class StateFolder:
    """Paths in the folder, and what they hold."""

    path: Path

    @property
    def kubeconfig(self) -> Path:
        """What clients are given."""
        return self.path / "kubeconfig"

    @property
    def database(self) -> Path:
        """The journal's file."""
        return self.path / "objects.sqlite3"

    def token(self, name: str = "token") -> str:
        """A random bearer token, made at the first call. ``node-token`` is the one for nodes."""
        file = self.path / name
        if not file.exists():
            write_private(file, secrets.token_urlsafe(32))
        return file.read_text()

    def prepare(self) -> None:
        """Make the folder, the CA and the two certificates where they are missing."""
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (self.path / "node.crt").exists():
            _make_certificates(self.path)

    def port(self) -> int:
        """The port of the last start, 0 if there was none."""
        file = self.path / "port"
        return int(file.read_text()) if file.exists() else 0

    def publish(self, port: int) -> None:
        """Write the port and the kubeconfig, whole or not at all."""
        write_private(self.path / "port", str(port))
        write_private(self.kubeconfig, json.dumps(self._kubeconfig(port), indent=2))

    def _kubeconfig(self, port: int) -> dict[str, object]:
        cluster = {
            "server": f"https://{HOST}:{port}",
            "certificate-authority-data": _base64(self.path / "ca.crt"),
        }
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "embedded",
            "clusters": [{"name": "embedded", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": self.token()}}],
            "contexts": [
                {
                    "name": "embedded",
                    "context": {"cluster": "embedded", "user": "admin", "namespace": "default"},
                }
            ],
        }

    def server_context(self) -> ssl.SSLContext:
        """TLS for the API's own port."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.path / "server.crt", self.path / "server.key")
        return context

    def client_context(self) -> ssl.SSLContext:
        """TLS towards nodes: trusts this cluster's CA alone."""
        return ssl.create_default_context(cafile=str(self.path / "ca.crt"))


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, replacing an older one in one step."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _builder(subject: str, issuer: str, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _make_certificates(folder: Path) -> None:
    authority = f"hybrid-executor-embedded-{secrets.token_hex(4)}"
    key = ec.generate_private_key(ec.SECP256R1())
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(authority, authority, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )
    _write_pair(folder, "ca", certificate, key)
    for name in ("server", "node"):
        _issue(folder, name, certificate, key)


def _issue(folder: Path, name: str, authority: x509.Certificate, signer: ec.EllipticCurvePrivateKey) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = str(authority.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
    certificate = (
        _builder(f"embedded-{name}", issuer, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(_NAMES), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    _write_pair(folder, name, certificate, key)


def _write_pair(
    folder: Path, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> None:
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_private(folder / f"{name}.key", private.decode())
    write_private(folder / f"{name}.crt", certificate.public_bytes(serialization.Encoding.PEM).decode())
