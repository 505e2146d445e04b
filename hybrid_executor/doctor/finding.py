"""What a check tells."""

from collections.abc import Iterator
from dataclasses import dataclass

#: Longest wait for one answer from outside.
TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report: what was looked at, and what is wrong with it (None: nothing)."""

    check: str
    problem: str | None = None
    #: Where nothing is wrong: what is worth knowing.
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.problem is None


def findings(check: str, problems: list[str]) -> Iterator[Finding]:
    """One for each problem, or that there is none."""
    if not problems:
        yield Finding(check)
    for problem in problems:
        yield Finding(check, problem)
