"""Kubernetes quantities ("100m", "1Gi", "1e3") as exact numbers, and back. Pure."""

import re
from fractions import Fraction
from math import ceil

_SUFFIXES = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "": Fraction(1),
    **{letter: Fraction(1000**power) for power, letter in enumerate("kMGTPE", start=1)},
    **{f"{letter}i": Fraction(1024**power) for power, letter in enumerate("KMGTPE", start=1)},
}
_QUANTITY = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)([a-zA-Z]{0,2})")


def parse(text: str | float) -> Fraction:
    """The number that a quantity stands for; ValueError if it is none."""
    match = _QUANTITY.fullmatch(str(text).strip())
    if match is None or match[2] not in _SUFFIXES:
        raise ValueError(f"{text!r} is not a quantity")
    return Fraction(match[1]) * _SUFFIXES[match[2]]


def whole(text: str | float, divisor: str | float = "1") -> int:
    """A quantity in units of ``divisor``, rounded up as the downward API does."""
    unit = parse(divisor)
    return ceil(parse(text) / (unit or 1))
