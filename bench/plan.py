"""Which rounds are run in which order. Pure."""

from collections.abc import Iterable, Iterator, Sequence

from bench.figure import Figure, Size


def chosen(figures: Sequence[Figure], names: Iterable[str]) -> list[Figure]:
    """The figures of these names in the order of ``figures``; all without names. Raises ``ValueError``."""
    wanted = set(names)
    known = {figure.name for figure in figures}
    if strange := sorted(wanted - known):
        raise ValueError(f"no figure {', '.join(strange)}; there are {', '.join(sorted(known))}")
    return [figure for figure in figures if not wanted or figure.name in wanted]


def is_whole(ran: Sequence[Figure], every: Sequence[Figure], size: Size, *, failed: bool) -> bool:
    """Whether a run may be called the newest: all figures in full size, and none of them failed."""
    return list(ran) == list(every) and size is Size.FULL and not failed


def turns(sides: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Round and side: A B C, A B C, … so that what slows the machine for a while slows all of them."""
    return ((number, side) for number in range(rounds) for side in sides)


def rounds_of(figure: Figure, size: Size, wanted: int | None) -> int:
    """How often each side's turn comes."""
    return wanted or (min(2, figure.rounds) if size is Size.SMALL else figure.rounds)
