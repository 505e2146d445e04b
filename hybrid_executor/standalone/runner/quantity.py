"""Kubernetes quantities ("100m", "1Gi", "1e3") as exact numbers, and back. Pure."""

from fractions import Fraction
from math import ceil

from hybrid_executor.cluster.quantity import parse_quantity


def parse(text: str | float) -> Fraction:
    """The number that a quantity stands for; ValueError if it is none."""
    return parse_quantity(str(text).strip())


def whole(text: str | float, divisor: str | float = "1") -> int:
    """A quantity in units of ``divisor``, rounded up as the downward API does."""
    unit = parse(divisor)
    return ceil(parse(text) / (unit or 1))
