"""The commands that the pages tell people to run, and what is known of each: pure, over the text of a page.

A fence whose language is ``sh`` or ``console`` says behind it which test runs
its commands, ``sh test=tests/e2e/test_commands.py``, or that none does and why,
``sh not-run=needs-an-engine``. Commands stand in indented blocks too, which have
no room for such a word; those of programs of ours are read there as well, so
that a test can ask the programs about them. ``tests/unit/test_docs_commands.py``
is the caller.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

_FENCE = re.compile(r"^([ ]*)```(?:sh|console)\b([^\n]*)\n(.*?)^\1```", flags=re.DOTALL | re.MULTILINE)
_PROGRAMS = r"((?:airflow hybrid|make|hybrid-executor) [^\n]+)$"
_INDENTED = re.compile(rf"^ {{4}}(?:\$ )?{_PROGRAMS}", flags=re.MULTILINE)
_OURS = re.compile(rf"^\s*(?:\$ )?(?:\S*/)?{_PROGRAMS}", flags=re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Fence:
    """One block of commands."""

    marks: dict[str, str]
    text: str


def fences(page: str) -> Iterator[Fence]:
    """The blocks of a page that say of themselves that they are commands."""
    for match in _FENCE.finditer(page):
        marks = dict(word.partition("=")[::2] for word in match[2].split())
        yield Fence(marks, match[3])


def commands(page: str) -> Iterator[list[str]]:
    """The words of each command of a program of ours, without what only a shell reads."""
    lines = [match[1] for match in _INDENTED.finditer(page)]
    lines += [match[1] for fence in fences(page) for match in _OURS.finditer(fence.text)]
    for line in lines:
        words = shlex.split(re.split(r"\s[|>]\s|\s&&\s|;\s", line)[0], comments=True)
        yield [word for word in words if not word.startswith("[") and not word.endswith("]")]
