"""The command line of the runner: read once, every problem in one message."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hybrid_executor.model.errors import ConfigError
from hybrid_executor.standalone.runner import quantity
from hybrid_executor.standalone.runner.node import LEASE_S

DEFAULT_MAX_PODS = 110


@dataclass(frozen=True)
class Options:
    """What the runner was told."""

    kubeconfig: Path
    state: Path
    name: str
    bind: bool = False
    processes: bool = True
    namespaces: bool = True
    max_pods: int = DEFAULT_MAX_PODS
    prefixes: Sequence[Path] = ()
    env: Mapping[str, str] = field(default_factory=dict, repr=False)
    labels: Mapping[str, str] = field(default_factory=dict)
    allocatable: Mapping[str, str] = field(default_factory=dict)
    node_token: Path | None = None
    client_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    restart_backoff_s: float = 10.0
    lease_s: int = LEASE_S


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m hybrid_executor.standalone.runner",
        description="A Kubernetes node that runs each pod's containers as local processes.",
    )
    add = made.add_argument
    add("--kubeconfig", type=Path, required=True, metavar="FILE", help="how to reach the API")
    add("--state", type=Path, required=True, metavar="DIR", help="own folder: volumes and logs of pods")
    add("--name", required=True, metavar="NODE", help="name of the node")
    add("--bind", action="store_true", help="bind pods that no scheduler has bound (embedded API)")
    add("--lease-s", type=int, default=LEASE_S, metavar="S",
        help="how long the node's Lease is good for; renewed four times as often")  # fmt: skip
    add("--no-processes", action="store_true", help="pods end by themselves, as annotated; for load tests")
    add("--no-namespaces", action="store_true", help="do without, as where the machine allows none")
    add("--max-pods", type=int, default=DEFAULT_MAX_PODS, metavar="N", help="allocatable pods")
    add("--prefix", type=Path, action="append", default=[], metavar="VENV",
        help="virtual environment whose bin folder comes first in PATH; may be repeated")  # fmt: skip
    add("--env", action="append", default=[], metavar="KEY=VALUE", help="for every container")
    add("--env-file", type=Path, action="append", default=[], metavar="FILE",
        help="lines of KEY=VALUE for every container; must be readable by its owner only")  # fmt: skip
    add("--label", action="append", default=[], metavar="KEY=VALUE", help="label of the node")
    add("--allocatable", action="append", default=[], metavar="RESOURCE=QUANTITY",
        help="instead of what the machine has: cpu, memory")  # fmt: skip
    add("--node-token", type=Path, metavar="FILE", help="bearer token that may read logs")
    add("--client-ca", type=Path, metavar="FILE", help="CA of users that may read logs, if the API lets them")
    add("--tls-cert", type=Path, metavar="FILE", help="certificate of the log endpoint")
    add("--tls-key", type=Path, metavar="FILE", help="its key")
    add(
        "--restart-backoff-s",
        type=float,
        default=10.0,
        metavar="S",
        help="first delay of a restarted container",
    )
    return made


def read(arguments: Sequence[str]) -> Options:
    """The options; ConfigError lists all that is wrong with them."""
    given = parser().parse_args(arguments)
    problems: list[str] = []
    env = _env_files(given.env_file, problems) | _pairs("--env", given.env, problems)
    allocatable = _pairs("--allocatable", given.allocatable, problems)
    for resource, value in allocatable.items():
        try:
            quantity.parse(value)
        except ValueError as error:
            problems.append(f"--allocatable {resource}: {error}")
    if bool(given.tls_cert) != bool(given.tls_key):
        problems.append("--tls-cert and --tls-key belong together")
    if given.max_pods < 1:
        problems.append("--max-pods: must be at least 1")
    if given.lease_s < 1:
        problems.append("--lease-s: must be at least 1")
    files = (given.kubeconfig, given.tls_cert, given.tls_key, given.node_token, given.client_ca)
    problems += [f"{path}: no such file" for path in files if path and not path.is_file()]
    labels = _pairs("--label", given.label, problems)
    if problems:
        raise ConfigError(problems)
    return Options(
        kubeconfig=given.kubeconfig,
        state=given.state.absolute(),
        name=given.name,
        bind=given.bind,
        processes=not given.no_processes,
        namespaces=not given.no_namespaces,
        max_pods=given.max_pods,
        prefixes=[prefix.absolute() for prefix in given.prefix],
        env=env,
        labels=labels,
        allocatable=allocatable,
        node_token=given.node_token,
        client_ca=given.client_ca,
        tls_cert=given.tls_cert,
        tls_key=given.tls_key,
        restart_backoff_s=given.restart_backoff_s,
        lease_s=given.lease_s,
    )


def _pairs(option: str, texts: Sequence[str], problems: list[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            problems.append(f"{option} {key}: expected KEY=VALUE")
        found[key] = value
    return found


def _env_files(paths: Sequence[Path], problems: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in paths:
        try:
            if path.stat().st_mode & 0o077:
                problems.append(f"{path}: may hold secrets, so only its owner may read it (chmod 600)")
            lines = path.read_text().splitlines()
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
            continue
        useful = [line for line in lines if line.strip() and not line.startswith("#")]
        found |= _pairs(str(path), useful, problems)
    return found
