"""How the processes of a run speak to each other: files in its folder. Knows no server.

The conductor writes which phase it is; whoever takes part appends what it
counts, a line a second, and leaves at its end what it noted of each task.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Between two lines of a process.
EVERY_S = 1.0
#: Instead of a phase's number: all end.
OVER = -1


@dataclass(frozen=True, slots=True)
class Board:
    """The folder of one run."""

    folder: Path

    def begin(self, phase: int, at: float) -> None:
        """Say that a phase begins at a time, in seconds since 1970; everybody goes by it."""
        self._replace("phase", {"phase": phase, "at": at})

    def phase(self) -> tuple[int, float]:
        """Which phase it is, and since when."""
        said = self._read("phase")
        return said["phase"], said["at"]

    def leave(self, name: str, noted: Mapping[str, Any]) -> None:
        """What a process has to say at its end."""
        self._replace(f"{name}.end", noted)

    def left(self, name: str) -> dict[str, Any] | None:
        """That, once it has said it."""
        return self._read(f"{name}.end") if (self.folder / f"{name}.end.json").exists() else None

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Whole lines of a process, so far."""
        file = self.folder / f"{name}.lines"
        if not file.exists():
            return []
        # What is being written has no end of line yet.
        return [json.loads(line) for line in file.read_text().split("\n")[:-1]]

    def _replace(self, name: str, content: Mapping[str, Any]) -> None:
        draft = self.folder / f"{name}.{os.getpid()}.draft"
        draft.write_text(json.dumps(content))
        draft.rename(self.folder / f"{name}.json")

    def _read(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / f"{name}.json").read_text())
        return found


@dataclass
class Teller:
    """Appends the lines of one process."""

    board: Board
    name: str
    _next_s: float = field(default=0.0, init=False)

    @property
    def is_due(self) -> bool:
        """Whether a second has passed since the last line."""
        return time.monotonic() >= self._next_s

    def tell(self, **counted: Any) -> None:
        """A line, with the time."""
        self._next_s = time.monotonic() + EVERY_S
        with (self.board.folder / f"{self.name}.lines").open("a") as file:
            file.write(json.dumps({"at": time.time(), **counted}) + "\n")
