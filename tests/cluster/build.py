"""Builds the Go programs of the test cluster, once for every version of what they are built from.

Each Go module beside this file becomes a folder in the cache, named by a key of
its sources, its locked dependencies and the Go version: a clone elsewhere on
the machine finds what the last one built. Two builders wait for each other.
Never installs Go: versions are what go.mod and go.sum say. Called by
``python -m tests.cluster``, the fixtures and the node.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
#: Where Go's own installer puts it, for those who have not changed their PATH.
USUAL_GO = "/usr/local/go/bin"


class CannotBuild(Exception):
    """Go is missing or too old, or the build failed; the message says what to do."""


@dataclass(frozen=True)
class Edit:
    """A program of a dependency, built with one text of its only file replaced.

    The edited file is a package of our module during the build: Go replaces none in its module cache.
    """

    package: str
    module: str
    file: str
    old: str
    new: str


@dataclass(frozen=True)
class GoModule:
    """A Go module and the programs that are built from it."""

    folder: Path
    #: File name → package.
    programs: Mapping[str, str]
    #: What a cold build took on two cores, said before one starts.
    minutes: int
    #: Linker flags ``-X`` with ``{version}``, ``{major}`` or ``{minor}`` of ``told_version_of``.
    told_version_of: str = ""
    variables: Sequence[str] = ()
    #: Folders of dependencies that are wanted beside the programs: name → (module, path in it).
    data: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    edits: Sequence[Edit] = ()

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def go_wanted(self) -> str:
        """The least Go version, as go.mod has it."""
        return self._match(r"^go (\S+)$")

    def version_of(self, module: str) -> str:
        """The pinned version of a dependency."""
        return self._match(rf"^\s*(?:require )?{re.escape(module)} (v\S+)")

    def _match(self, pattern: str) -> str:
        found = re.search(pattern, (self.folder / "go.mod").read_text(), re.MULTILINE)
        assert found, f"{self.folder}/go.mod has no {pattern}"
        return found[1]

    def linker_flags(self) -> str:
        """Strip symbols, and make the programs say their real version."""
        if not self.variables:
            return "-s -w"
        version = self.version_of(self.told_version_of).removeprefix("v")
        major, minor, _ = version.split(".", 2)
        told = [text.format(version=version, major=major, minor=minor) for text in self.variables]
        return " ".join(["-s -w", *(f"-X {text}" for text in told)])


_VERSION_PACKAGES = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
KUBERNETES = GoModule(
    HERE / "kubernetes",
    {"kubernetes": "."},
    minutes=6,
    told_version_of="k8s.io/kubernetes",
    variables=[
        f"{package}.{variable}"
        for package in _VERSION_PACKAGES
        for variable in ("gitVersion=v{version}", "gitMajor={major}", "gitMinor={minor}")
    ],
)

_KEDA = "github.com/kedacore/keda/v2"
KEDA = GoModule(
    HERE / "keda",
    {"keda-operator": f"{_KEDA}/cmd/operator", "keda-adapter": "./adapter"},
    minutes=7,
    told_version_of=_KEDA,
    variables=[f"{_KEDA}/version.Version={{version}}"],
    data={"config": (_KEDA, "config")},
    # The adapter's metrics are served on every address, and no flag says otherwise.
    edits=[
        Edit(
            "adapter",
            _KEDA,
            "cmd/adapter/main.go",
            'Sprintf(":%v", metricsAPIServerPort',
            'Sprintf("127.0.0.1:%v", metricsAPIServerPort',
        )
    ],
)

_GATEWAY, _PROMETHEUS = "sigs.k8s.io/gateway-api", "github.com/prometheus-operator/prometheus-operator"
CRDS = GoModule(
    HERE / "crds",
    {},
    minutes=1,
    data={
        "gateway": (_GATEWAY, "config/crd/standard"),
        "prometheus": (_PROMETHEUS, "example/prometheus-operator-crd"),
    },
)


def crds() -> Path:
    """The folder with kinds of others that the chart makes: ``gateway/`` and ``prometheus/``."""
    return built(CRDS)


def kubernetes() -> Path:
    """The one program that is every server of Kubernetes, and kubectl; see ``kubernetes/main.go``."""
    return built(KUBERNETES) / "kubernetes"


def keda() -> Path:
    """The folder with ``keda-operator``, ``keda-adapter`` and KEDA's manifests in ``config/``."""
    return built(KEDA)


def cache() -> Path:
    """Where built programs are kept. Deleting it costs the time to build them again."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hybrid-executor" / "cluster"


def built(module: GoModule) -> Path:
    """The folder with a module's programs; builds them if no one has."""
    go = _go(module)
    done = cache() / f"{module.name}-{_key(module, go)}"
    if done.exists():
        return done
    done.parent.mkdir(parents=True, exist_ok=True)
    with _alone(done.parent / f"{module.name}.lock", module.name):
        if not done.exists():
            _build(module, go, done)
    return done


def _build(module: GoModule, go: str, done: Path) -> None:
    tell(f"building {module.name}: about {module.minutes} min with empty Go caches …")
    begin = time.monotonic()
    draft = done.with_name(f".{done.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    flags = ["-trimpath", "-buildvcs=false", "-mod=readonly", f"-ldflags={module.linker_flags()}"]
    with tempfile.TemporaryDirectory() as scratch:
        overlay = _overlay(module, go, Path(scratch))
        for name, package in module.programs.items():
            _run(module, [go, "build", *flags, f"-overlay={overlay}", "-o", str(draft / name), package])
    for name, (source, path) in module.data.items():
        shutil.copytree(_folder_of(module, go, source) / path, draft / name)
    draft.rename(done)
    size = sum(file.stat().st_size for file in done.rglob("*") if file.is_file())
    tell(f"built {module.name} in {time.monotonic() - begin:.0f} s: {size / 1e6:.0f} MB in {done}")


def _overlay(module: GoModule, go: str, scratch: Path) -> Path:
    """What go build reads as the edited packages."""
    replaced = {}
    for edit in module.edits:
        original = _folder_of(module, go, edit.module) / edit.file
        text = original.read_text()
        if text.count(edit.old) != 1:
            raise CannotBuild(f"{original} does not have exactly one {edit.old!r}: look at build.py")
        edited = scratch / f"{edit.package}.go"
        edited.write_text(text.replace(edit.old, edit.new))
        replaced[str(module.folder / edit.package / original.name)] = str(edited)
    overlay = scratch / "overlay.json"
    overlay.write_text(json.dumps({"Replace": replaced}))
    return overlay


def _folder_of(module: GoModule, go: str, dependency: str) -> Path:
    """Where Go keeps a dependency's files, which it fetches if need be."""
    _run(module, [go, "mod", "download", dependency])
    return Path(_run(module, [go, "list", "-m", "-f", "{{.Dir}}", dependency]).strip())


def _run(module: GoModule, command: list[str]) -> str:
    done = subprocess.run(
        command, cwd=module.folder, env=_environment(), stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise CannotBuild(f"{' '.join(command)} failed ({done.returncode}) in {module.folder}; see above")
    return done.stdout


def _environment() -> dict[str, str]:
    """Without C, so that no compiler is needed and the programs run in any image; with the Go found."""
    return os.environ | {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOWORK": "off", "GOFLAGS": ""}


def _go(module: GoModule) -> str:
    go = shutil.which("go") or shutil.which("go", path=USUAL_GO)
    wanted = f"building {module.name} for the cluster tests needs Go {module.go_wanted} or newer"
    if go is None:
        raise CannotBuild(f"{wanted}, and there is no go in PATH or {USUAL_GO}: install it from go.dev/dl")
    have = _version(go)
    if _numbers(have) < _numbers(module.go_wanted):
        raise CannotBuild(f"{wanted}; {go} is {have}")
    return go


def _version(go: str) -> str:
    done = subprocess.run(
        [go, "env", "GOVERSION"], env=_environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise CannotBuild(f"{go} does not work: {done.stderr.strip()}")
    return done.stdout.strip()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("-", maxsplit=1)[0])[:3])


def _key(module: GoModule, go: str) -> str:
    """Changes with anything that the programs are built from."""
    digest = hashlib.sha256()
    for file in sorted([*module.folder.glob("*.go"), module.folder / "go.mod", module.folder / "go.sum"]):
        digest.update(f"{file.name}\n".encode() + file.read_bytes())
    how = (
        _version(go),
        os.uname().machine,
        module.programs,
        module.linker_flags(),
        module.data,
        module.edits,
    )
    digest.update(repr(how).encode())
    return digest.hexdigest()[:16]


@contextmanager
def _alone(lock: Path, name: str) -> Iterator[None]:
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            tell(f"{name} is being built already: waiting for it …")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def tell(text: str) -> None:
    """One line for who waits."""
    print(text, file=sys.stderr, flush=True)
