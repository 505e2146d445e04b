"""Durations as people write and read them. Pure; the commands call it."""

import re
from datetime import timedelta

_DURATION = re.compile(r"(?:(?P<days>\d+)d)?(?:(?P<hours>\d+)h)?(?:(?P<minutes>\d+)m)?(?:(?P<seconds>\d+)s)?")


def parse_duration(text: str) -> timedelta:
    """``90s``, ``30m``, ``12h``, ``7d`` or a sum of such (``1d12h``); ``ValueError`` if it is none."""
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        raise ValueError(f"{text!r} is no duration; write it like 90s, 30m, 12h, 7d or 1d12h")
    try:
        return timedelta(**{unit: int(number) for unit, number in match.groupdict("0").items()})
    except OverflowError as error:
        raise ValueError(f"{text!r} is longer than anything lasts") from error


def in_words(span: timedelta) -> str:
    """A duration for people, in its two largest units: ``3d4h``, ``12m5s``, ``0s``."""
    seconds = max(0, int(span.total_seconds()))
    parts = [
        (seconds // 86400, "d"),
        (seconds // 3600 % 24, "h"),
        (seconds // 60 % 60, "m"),
        (seconds % 60, "s"),
    ]
    first = next((index for index, (number, _) in enumerate(parts) if number), len(parts) - 1)
    shown = [f"{number}{unit}" for number, unit in parts[first : first + 2] if number]
    return "".join(shown) or "0s"


def in_words_finely(span: timedelta) -> str:
    """As ``in_words``, but ``0.190s`` for what takes less than ten seconds."""
    seconds = max(0.0, span.total_seconds())
    return f"{seconds:.3f}s" if seconds < 10 else in_words(span)
