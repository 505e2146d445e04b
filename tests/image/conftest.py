"""The image without an engine: what its build copies and runs, in a folder that stands for it."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fixtures.stock import find_uv
from tests.image.dockerfile import ROOT, context, copied, instructions

DOCKERFILE = ROOT / "workers" / "Dockerfile"


@dataclass(frozen=True)
class Built:
    """What the build made of the source that it was given, and an environment in which that is installed."""

    wheel: Path
    constraints: Path
    #: Holds the package, and ``bin`` with its programs.
    packages: Path
    #: Of an environment with what the lock pins, as the official image has it.
    python: Path

    @property
    def environment(self) -> dict[str, str]:
        """That of a container, with its user's own settings away."""
        foreign = ("AIRFLOW", "PYTHON", "CELERY", "FLOWER", "KUBE", "VIRTUAL_ENV")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        path = f"{self.packages / 'bin'}:{self.python.parent}:/usr/local/bin:/usr/bin:/bin"
        return kept | {"PATH": path, "PYTHONPATH": str(self.packages)}

    def python_path(self, more: str) -> str:
        """``PYTHONPATH`` with what a service sets besides."""
        return ":".join(filter(None, [more, str(self.packages)]))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, stock_python: Path) -> Built:
    """The stage ``build``, command by command; ``pip wheel`` is played by what makes wheels here."""
    root = tmp_path_factory.mktemp("image")
    found = [one for one in instructions(DOCKERFILE) if one.stage == 1]
    for one in found:
        if one.word == "COPY":
            copy(*copied(one), root)
    wheels = root / "tmp" / "wheels"
    wheels.mkdir(parents=True)
    uv = find_uv()
    subprocess.run([uv, "build", "--quiet", "--wheel", "--out-dir", wheels, root / "tmp/source"], check=True)
    [line] = [one.rest for one in found if one.rest.startswith("sed ")]
    subprocess.run(["sh", "-ec", line.replace(" /", f" {root}/")], check=True)
    [wheel] = wheels.glob("*.whl")
    packages = root / "packages"
    install = [uv, "pip", "install", "--quiet", "--no-deps", "--python", stock_python, "--target", packages]
    subprocess.run([*install, wheel], check=True)
    return Built(wheel, wheels / "constraints.txt", packages, stock_python)


def copy(sources: list[str], target: str, root: Path) -> None:
    """As COPY does it: the content of a folder, or files into one."""
    for source in sources:
        below = ROOT / source if (ROOT / source).is_dir() else (ROOT / source).parent
        for file in context(source):
            to = root / target.lstrip("/") / file.relative_to(below)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, to)
