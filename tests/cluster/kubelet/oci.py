"""Images in OCI layout, written by hand: layers are plain tar files, an image is a list of them.

A layer is cached as a file with a note of its digest; an archive of an image is
made as it is read, so that no large file is written twice. Runs no container
and knows no registry. Called by ``images.py``.
"""

import hashlib
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.kubelet.packages import PATH

PIECE = 1 << 20
MEDIA = "application/vnd.oci.image"
#: Of every file: an image made twice from the same files is the same image.
MOMENT = "@1750000000"


@dataclass(frozen=True)
class Layer:
    """A tar file of an image."""

    file: Path
    digest: str
    size: int

    @classmethod
    def of(cls, file: Path) -> "Layer":
        """Read its digest, which is written beside it once."""
        note = file.with_suffix(".sha256")
        if not note.exists():
            draft = note.with_suffix(f".{os.getpid()}.new")
            with file.open("rb") as content:
                draft.write_text(hashlib.file_digest(content, "sha256").hexdigest())
            draft.replace(note)
        return cls(file, f"sha256:{note.read_text()}", file.stat().st_size)


@dataclass(frozen=True)
class Image:
    """What a node runs: layers, lowest first, and what its processes are given."""

    name: str
    layers: Sequence[Layer]
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = "0"
    folder: str = "/"
    #: What its process is asked to end with; SIGTERM where it is not said.
    stop_signal: str = ""

    def configuration(self) -> dict[str, Any]:
        """Its config, as the OCI specifies."""
        return {
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Entrypoint": list(self.entrypoint),
                "Cmd": list(self.command),
                "Env": [f"{name}={value}" for name, value in self.environment.items()],
                "User": self.user,
                "WorkingDir": self.folder,
                **({"StopSignal": self.stop_signal} if self.stop_signal else {}),
            },
            "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in self.layers]},
        }

    @property
    def size(self) -> int:
        return sum(layer.size for layer in self.layers)


def architecture() -> str:
    """This machine's, in Go's words."""
    return {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine]


def write_layer(tree: Path, file: Path, *flags: str) -> Layer:
    """Make a layer of all that is in a folder, all of it of root; ``flags`` are tar's."""
    draft = file.with_suffix(f".{os.getpid()}.new")
    command = ["tar", "--create", f"--file={draft}", f"--directory={tree}", "--format=pax", "--sort=name"]
    command += [f"--mtime={MOMENT}", "--pax-option=delete=atime,delete=ctime", "--numeric-owner"]
    command += ["--owner=0", "--group=0", *flags, "."]
    subprocess.run(command, check=True, env=os.environ | {"PATH": PATH})
    draft.replace(file)
    file.with_suffix(".sha256").unlink(missing_ok=True)
    return Layer.of(file)


def archive(images: Sequence[Image], have: Sequence[Image] = ()) -> Iterator[bytes]:
    """A tar archive in OCI layout with these images; each layer once, and those of ``have`` not at all."""
    index = []
    seen = {layer.digest for image in have for layer in image.layers}
    for image in images:
        config = json.dumps(image.configuration()).encode()
        manifest = json.dumps(_manifest(image, config)).encode()
        for layer in image.layers:
            if layer.digest not in seen:
                seen.add(layer.digest)
                yield from _blob_of(layer)
        yield from _member(_path(_digest(config)), config)
        yield from _member(_path(_digest(manifest)), manifest)
        names = {"io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": image.name}
        index.append(_descriptor("manifest.v1+json", manifest) | {"annotations": names})
    yield from _member("oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
    yield from _member("index.json", json.dumps({"schemaVersion": 2, "manifests": index}).encode())
    yield bytes(2 * tarfile.BLOCKSIZE)


def _manifest(image: Image, config: bytes) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": f"{MEDIA}.manifest.v1+json",
        "config": _descriptor("config.v1+json", config),
        "layers": [
            {"mediaType": f"{MEDIA}.layer.v1.tar", "digest": layer.digest, "size": layer.size}
            for layer in image.layers
        ],
    }


def _descriptor(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": f"{MEDIA}.{kind}", "digest": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _member(name: str, content: bytes) -> Iterator[bytes]:
    yield _header(name, len(content))
    yield content + _padding(len(content))


def _blob_of(layer: Layer) -> Iterator[bytes]:
    yield _header(_path(layer.digest), layer.size)
    with layer.file.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece
    yield _padding(layer.size)


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf()


def _padding(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)
