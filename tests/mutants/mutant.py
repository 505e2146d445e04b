"""One mutant: a patch with a header that names the promise it breaks and the tests that hold it.

Pure but for reading the file. ``run`` is its caller.
"""

from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

FOLDER = Path(__file__).parent
KEYS = ("promise", "test", "stack")


class BadMutant(Exception):
    """The file is no mutant; the message says why."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A patch file, read."""

    name: str
    path: Path
    #: The sentence of the issue or the invariant that it breaks.
    promise: str
    #: Pytest's node ids; one of them failing kills the mutant.
    tests: tuple[str, ...]
    #: Its tests start the whole stack, so they run alone and after all others.
    needs_stack: bool = False


def read(path: Path) -> Mutant:
    """Read the header, which ends where the diff begins. Raises ``BadMutant``."""
    header, found, _ = path.read_text(encoding="utf-8").partition("\n--- a/")
    if not found:
        raise BadMutant(f"{path.name}: holds no unified diff")
    given = [line.partition(":") for line in header.splitlines() if line.strip()]
    values: dict[str, list[str]] = {key: [] for key in KEYS}
    for key, _, value in given:
        if key not in values:
            raise BadMutant(f"{path.name}: {key!r} is none of {', '.join(KEYS)}")
        values[key].append(value.strip())
    if len(values["promise"]) != 1 or not values["test"]:
        raise BadMutant(f"{path.name}: needs one promise and at least one test")
    return Mutant(
        path.stem, path, values["promise"][0], tuple(values["test"]), needs_stack=values["stack"] == ["yes"]
    )


def chosen(names: list[str]) -> list[Mutant]:
    """The mutants of these names, or all. Raises ``BadMutant``."""
    known = {path.stem: path for path in sorted(FOLDER.glob("*.patch"))}
    if unknown := [name for name in names if name not in known]:
        raise BadMutant(f"no mutant {', '.join(unknown)}")
    return [read(known[name]) for name in names or known]


def sampled(mutants: list[Mutant], one_in: int, key: str) -> list[Mutant]:
    """About one in so many of them: the same for the same ``key``, and all in the course of many keys."""
    return [m for m in mutants if crc32(f"{key} {m.name}".encode()) % one_in == 0]
