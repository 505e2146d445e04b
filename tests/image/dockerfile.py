"""Reads a Dockerfile and what its build context lets through. Called by the tests of the image."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Instruction:
    """One line of it, with the lines that continue it and without comments."""

    word: str
    rest: str
    #: The number of its stage; the arguments before the first have none.
    stage: int


def instructions(path: Path) -> list[Instruction]:
    """All of them, in order."""
    lines = [
        line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]
    text = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found, stage = [], -1
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        stage += word == "FROM"
        found.append(Instruction(word, rest.strip(), stage))
    return found


def let_through() -> list[str]:
    """The files and folders that .dockerignore names as exceptions from "everything"."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    return [line[1:] for line in lines if line.startswith("!")]


def copied(one: Instruction) -> tuple[list[str], str]:
    """What a COPY takes, and where to."""
    words = [word for word in one.rest.split() if not word.startswith("--")]
    return words[:-1], words[-1]


def settings(found: list[Instruction]) -> dict[str, str]:
    """What ENV sets."""
    return dict(part.split("=", 1) for one in found if one.word == "ENV" for part in one.rest.split())


def left_out(path: str) -> bool:
    """Whether a file below a folder that is let through is ignored all the same."""
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("**")]
    return any(fnmatch(part, pattern[3:]) for pattern in patterns for part in Path(path).parts)


def context(name: str) -> Iterator[Path]:
    """The files of the build context below a path."""
    start = ROOT / name
    files = start.rglob("*") if start.is_dir() else iter([start])
    return (file for file in files if file.is_file() and not left_out(str(file.relative_to(ROOT))))
