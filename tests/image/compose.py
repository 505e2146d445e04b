"""Reads docker-compose.yml, and runs its services as processes of this machine where their image is ours.

An engine's part is played by substitution: where a container has an address or
a folder of its own, the text of its settings and commands is given one of this
machine. Everything else is the file's own: order, conditions, commands,
environment, and the health check of the image. Called by the tests of the file.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.image.dockerfile import ROOT

FILE = ROOT / "docker-compose.yml"
OURS = "hybrid-executor:0.1.0"


@dataclass(frozen=True)
class Service:
    """One service of the file, without what only an engine reads."""

    name: str
    image: str
    entrypoint: list[str]
    command: list[str]
    environment: dict[str, str]
    #: Services that must be there before, with the condition.
    after: dict[str, str]
    #: From a folder in the container to what is mounted there: a volume's name, or a path of the project.
    mounts: dict[str, str]
    rest: dict[str, Any] = field(repr=False)

    @property
    def ends(self) -> bool:
        """Whether it does something once."""
        return self.rest.get("restart", "no") == "no"


def document() -> dict[str, Any]:
    """The file as it is, with each variable's default in its place."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", FILE.read_text())
    loaded = yaml.safe_load(text)
    assert isinstance(loaded, dict)
    return loaded


def services() -> dict[str, Service]:
    """All services, each after those that it waits for."""
    every = {name: _service(name, about) for name, about in document()["services"].items()}
    ordered: dict[str, Service] = {}
    while len(ordered) < len(every):
        ready = [one for one in every.values() if one.name not in ordered and set(one.after) <= set(ordered)]
        assert ready, f"{set(every) - set(ordered)} wait for each other"
        ordered |= {one.name: one for one in ready}
    return ordered


def _service(name: str, about: dict[str, Any]) -> Service:
    after = {other: how["condition"] for other, how in about.get("depends_on", {}).items()}
    mounts = (mount.split(":") for mount in about.get("volumes", []))
    return Service(
        name=name,
        image=about["image"],
        entrypoint=about.get("entrypoint", []),
        command=about.get("command", []),
        environment=about.get("environment", {}),
        after=after,
        mounts={parts[1]: parts[0] for parts in mounts},
        rest=about,
    )


@dataclass(frozen=True)
class Place:
    """Where on this machine the file's addresses and folders are."""

    folder: Path
    #: Words of the file with what stands for them here; the longest first.
    words: dict[str, str]

    def here(self, text: str, service: Service) -> str:
        """The text of a service's setting or command, for this machine."""
        for there, here in self.words.items():
            text = text.replace(there, here)
        for inside, what in sorted(service.mounts.items(), key=lambda item: -len(item[0])):
            text = re.sub(rf"(?<![\w./-]){re.escape(inside)}(?![\w-])", str(self.mounted(what)), text)
        return text

    def mounted(self, what: str) -> Path:
        """A path of the project, or the folder that stands for a volume."""
        if what.startswith("."):
            return ROOT / what
        if what.startswith("/"):
            return Path(what)
        volume = self.folder / "volumes" / what
        volume.mkdir(parents=True, exist_ok=True)
        return volume

    def command(self, service: Service) -> list[str]:
        """What its container runs; without an entry point of its own that of the image, which runs it."""
        return [self.here(word, service) for word in [*service.entrypoint, *service.command]]

    def environment(self, service: Service) -> dict[str, str]:
        return {name: self.here(value, service) for name, value in service.environment.items()}
