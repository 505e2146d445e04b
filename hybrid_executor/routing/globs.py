"""What queue globs match, and whether some of them leave anything for another.

The language is that of ``fnmatch.fnmatchcase`` (``*``, ``?``, ``[abc]``,
``[!a-z]``), and that function stays the only judge of a single character, so
that this module can't disagree with it. ``covers`` decides inclusion exactly,
by walking both sides as automata over one representative character of every
interval that the patterns tell apart. It never guesses: a walk that grows too
long is answered with "not covered". Called by ``routing.file`` to refuse
rules that can never match.
"""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from sys import maxunicode

#: Longest walk of ``covers``; real tables need a few dozen steps.
MAX_STEPS = 20_000

STAR = "*"

Pieces = tuple[str, ...]
#: Positions in several patterns at once: (pattern, index of the piece that is next).
Front = frozenset[tuple[int, int]]


def pieces(glob: str) -> Pieces:
    """Cut a glob into stars and patterns of one character: ``a[bc]*`` is ``a``, ``[bc]``, ``*``."""
    return tuple(_cut(glob))


def _cut(glob: str) -> Iterator[str]:
    start = 0
    while start < len(glob):
        end = _class_end(glob, start) if glob[start] == "[" else start + 1
        yield glob[start:end]
        start = end


def _class_end(glob: str, start: int) -> int:
    """Where the class that opens at ``start`` ends; an unclosed bracket stands for itself."""
    body = start + 2 if glob[start + 1 : start + 2] == "!" else start + 1
    close = glob.find("]", body + 1)  # a bracket that comes first is a member, not the end
    return close + 1 if close >= 0 else start + 1


def covers(earlier: Sequence[str], later: str) -> bool:
    """Whether every text that ``later`` matches is matched by one of ``earlier``.

    With no ``earlier`` at all this says whether ``later`` matches nothing.
    """
    patterns = [pieces(glob) for glob in earlier]
    wanted = pieces(later)
    alphabet = _representatives([*earlier, later])
    first = (0, _closed(patterns, frozenset((number, 0) for number in range(len(patterns)))))
    seen = {first}
    todo = [first]
    while todo:
        at, front = todo.pop()
        if _at_end(wanted, at) and not any(_at_end(patterns[n], i) for n, i in front):
            return False
        if len(seen) > MAX_STEPS:
            return False
        for char in alphabet:
            nexts = _steps(wanted, at, char)
            after = _advance(patterns, front, char) if nexts else front
            fresh = {(step, after) for step in nexts} - seen
            seen |= fresh
            todo += fresh
    return True


def _representatives(globs: Sequence[str]) -> list[str]:
    """One character of every interval of Unicode in which no glob changes its mind."""
    cuts = {0}
    for char in set("".join(globs)):
        cuts |= {ord(char), min(ord(char) + 1, maxunicode)}
    return [chr(cut) for cut in sorted(cuts)]


def _at_end(pattern: Pieces, at: int) -> bool:
    return all(piece == STAR for piece in pattern[at:])


def _steps(pattern: Pieces, at: int, char: str) -> set[int]:
    """The positions after ``char``: a star may take it and stay, or be left behind."""
    after = set()
    while at < len(pattern) and pattern[at] == STAR:
        after.add(at)
        at += 1
    if at < len(pattern) and fnmatchcase(char, pattern[at]):
        after.add(at + 1)
    return after


def _advance(patterns: Sequence[Pieces], front: Front, char: str) -> Front:
    return _closed(
        patterns, frozenset((n, step) for n, at in front for step in _steps(patterns[n], at, char))
    )


def _closed(patterns: Sequence[Pieces], front: Front) -> Front:
    """Keep, of each pattern, what lies at or behind its last star reached: the rest adds nothing.

    A position on a star accepts all that an earlier position of the same
    pattern accepts, so dropping the earlier ones keeps the fronts few.
    """
    last_star: dict[int, int] = {}
    for n, at in front:
        if at < len(patterns[n]) and patterns[n][at] == STAR:
            last_star[n] = max(at, last_star.get(n, 0))
    return frozenset((n, at) for n, at in front if at >= last_star.get(n, 0))
