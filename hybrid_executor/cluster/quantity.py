"""Kubernetes quantities (``250m``, ``1.5Gi``, ``2e3``) as exact numbers.

Never rounds and never guesses: what the API server would refuse raises
``ValueError``. ``fit`` and ``pods.diagnosis`` call it, and the embedded
cluster's node.
"""

import re
from fractions import Fraction

_UNITS: dict[str, Fraction] = {
    "": Fraction(1),
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 10**3),
    **{unit: Fraction(1000**power) for power, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": Fraction(1024**power) for power, unit in enumerate("KMGTPE", start=1)},
}
_QUANTITY = re.compile(
    r"(?P<sign>[+-]?)(?P<number>[0-9]+\.?[0-9]*|\.[0-9]+)(?:(?P<unit>[KMGTPE]i|[numkMGTPE])|[eE](?P<exponent>[+-]?[0-9]{1,3}))?",
)


def parse_quantity(text: str | int | float) -> Fraction:
    """The value of a quantity; ``ValueError`` if it is none."""
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise ValueError(f"{text!r} is no Kubernetes quantity")
    value = Fraction(match["number"]) * _UNITS[match["unit"] or ""]
    value *= Fraction(10) ** int(match["exponent"] or 0)
    return -value if match["sign"] == "-" else value


def about(size: Fraction) -> str:
    """A size in bytes for people, to three digits: ``7.78Gi``."""
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        if size >= _UNITS[unit]:
            return f"{float(size / _UNITS[unit]):.3g}{unit}"
    return f"{float(size):g} bytes"


def in_binary_units(size: Fraction) -> str:
    """A size in bytes for people: the largest binary unit that divides it, else bytes."""
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        if size and (size / _UNITS[unit]).denominator == 1:
            return f"{size / _UNITS[unit]}{unit}"
    return f"{float(size):g} bytes"
