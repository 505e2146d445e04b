"""Container log lines in the CRI format, and the choice that ``kubectl logs`` makes of them. Pure.

2026-11-21T10:20:22.123456789Z stdout F text      F ends a line, P is a part of one
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hybrid_executor.standalone.runner.podstate import parse_instant

#: The longest part that is written as one line, as containerd has it.
PART_MAX = 16 * 1024


@dataclass(frozen=True)
class LogQuery:
    """What a reader asked for; ``since`` is inclusive, ``limit_bytes`` counts what is sent."""

    follow: bool = False
    tail: int | None = None
    since: datetime | None = None
    timestamps: bool = False
    limit_bytes: int | None = None
    previous: bool = False


def query(parameters: Mapping[str, str], now: datetime) -> LogQuery:
    """A kubelet's query parameters; ValueError names the one that is wrong."""
    since = parameters.get("sinceTime")
    seconds = _integer(parameters, "sinceSeconds")
    moment = parse_instant(since) if since else None
    if seconds is not None:
        moment = now - timedelta(seconds=seconds)
    return LogQuery(
        follow=_truth(parameters, "follow"),
        tail=_integer(parameters, "tailLines"),
        since=moment,
        timestamps=_truth(parameters, "timestamps"),
        limit_bytes=_integer(parameters, "limitBytes"),
        previous=_truth(parameters, "previous"),
    )


def _integer(parameters: Mapping[str, str], name: str) -> int | None:
    text = parameters.get(name)
    if not text:
        return None
    if not text.isdigit():
        raise ValueError(f"{name}: {text!r} is not a whole number of at least 0")
    return int(text)


def _truth(parameters: Mapping[str, str], name: str) -> bool:
    return parameters.get(name, "").lower() in {"true", "1"}


def line(moment_ns: int, stream: str, text: bytes, *, complete: bool) -> bytes:
    """One line of a log file; ``moment_ns`` is nanoseconds since the epoch."""
    seconds, rest = divmod(moment_ns, 10**9)
    stamp = datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{stamp}.{rest:09d}Z {stream} {'F' if complete else 'P'} ".encode() + text + b"\n"


def split(pending: bytes, chunk: bytes) -> tuple[list[tuple[bytes, bool]], bytes]:
    """The lines and full parts in ``pending + chunk``, and what is left over."""
    *lines, rest = (pending + chunk).split(b"\n")
    found: list[tuple[bytes, bool]] = []
    for text in lines:
        found += [(part, False) for part in _parts(text)[:-1]]
        found.append((_parts(text)[-1], True))
    while len(rest) >= PART_MAX:
        found.append((rest[:PART_MAX], False))
        rest = rest[PART_MAX:]
    return found, rest


def _parts(text: bytes) -> list[bytes]:
    return [text[i : i + PART_MAX] for i in range(0, len(text), PART_MAX)] or [b""]


def shown(raw: bytes, *, timestamps: bool) -> bytes:
    """What a reader sees of one stored line."""
    stamp, _, rest = raw.rstrip(b"\n").partition(b" ")
    _stream, _, tagged = rest.partition(b" ")
    tag, _, text = tagged.partition(b" ")
    head = stamp + b" " if timestamps else b""
    return head + text + (b"\n" if tag == b"F" else b"")


def is_since(raw: bytes, since: datetime | None) -> bool:
    return since is None or parse_instant(raw.partition(b" ")[0].decode()) >= since


def chosen(stored: Iterable[bytes], asked: LogQuery) -> Iterator[bytes]:
    """The lines of ``stored`` that ``asked`` wants, as shown; the byte limit is the sender's."""
    lines = (raw for raw in stored if is_since(raw, asked.since))
    for raw in lines if asked.tail is None else _tail(lines, asked.tail):
        yield shown(raw, timestamps=asked.timestamps)


def _tail(lines: Iterable[bytes], count: int) -> list[bytes]:
    """The last ``count`` whole lines, each with all of its parts."""
    kept: deque[list[bytes]] = deque(maxlen=count)
    current: list[bytes] = []
    for raw in lines:
        current.append(raw)
        if raw.split(b" ", 3)[2] == b"F":
            kept.append(current)
            current = []
    if current:
        kept.append(current)
    return [raw for group in kept for raw in group]
