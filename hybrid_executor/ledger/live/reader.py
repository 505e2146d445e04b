"""Reads the live half, for any process: what is in flight, how old that is, and what has just changed.

Never writes. What it says may be gone or old at any time, so whoever answers a
user's question about one attempt asks the database, and the stream only says
when. Raises ``LiveUnavailable`` only. ``results``, ``status`` and ``doctor``
call it.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hybrid_executor.ledger.live.config import LiveConfig
from hybrid_executor.ledger.live.connection import Client, open_client, translated
from hybrid_executor.ledger.live.hashes import record_from
from hybrid_executor.ledger.live.schema import Keys, queue_name, queue_of
from hybrid_executor.model.attempt import BackendName
from hybrid_executor.model.errors import LiveUnavailable
from hybrid_executor.model.record import SubmissionRecord

#: Entries that one look takes out of the stream.
ENTRIES_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How the live half stands."""

    #: By backend and queue.
    inflight: Mapping[tuple[BackendName, str], int]
    #: When each scheduler last compared it with the database, and when it last wrote all of it anew.
    checked_at: Mapping[str, datetime]
    rebuilt_at: Mapping[str, datetime]


class LiveReader:
    """One connection; opened at the first question."""

    def __init__(self, config: LiveConfig, *, part: str = "") -> None:
        """``part`` as for ``LiveStore``."""
        self._config = config
        self._keys = Keys(config.prefix, part)
        self._client: Client | None = None

    def record(self, attempt_id: str) -> SubmissionRecord | None:
        """An attempt's newest submission while it is in flight and shortly after. One round trip."""
        with translated():
            fields: dict[str, str] = self._connected().hgetall(self._keys.attempts + attempt_id)
        try:
            return record_from(fields) if fields else None
        except (ValueError, KeyError) as error:
            raise LiveUnavailable(f"attempt {attempt_id} was written by another release ({error})") from error

    def inflight(self, backend: BackendName, queue: str) -> frozenset[str]:
        """The attempts that a living scheduler vouches for, on one queue. Two round trips."""
        with translated():
            client = self._connected()
            name = self._keys.inflight + queue_name(backend, queue)
            return frozenset(client.zrangebyscore(name, _now_s(client), "+inf"))

    def standing(self, jobs: Collection[str]) -> Standing:
        """How many are in flight where, and what these schedulers say. Three round trips."""
        keys = self._keys
        ordered = sorted(jobs)
        with translated():
            client = self._connected()
            now_s = _now_s(client)
            with client.pipeline(transaction=False) as pipeline:
                pipeline.zrangebyscore(keys.queues, now_s, "+inf")
                for job in ordered:
                    pipeline.hmget(keys.scheduler(job), "checked_at", "rebuilt_at")
                queues, *said = pipeline.execute()
            counts: list[int] = []
            if queues:
                with client.pipeline(transaction=False) as pipeline:
                    for queue in queues:
                        pipeline.zcount(keys.inflight + queue, now_s, "+inf")
                    counts = pipeline.execute()
        by_job = dict(zip(ordered, said, strict=True))
        return Standing(
            inflight={queue_of(q): n for q, n in zip(queues, counts, strict=True) if n},
            checked_at={job: _time(checked) for job, (checked, _) in by_job.items() if checked},
            rebuilt_at={job: _time(rebuilt) for job, (_, rebuilt) in by_job.items() if rebuilt},
        )

    def last_transition(self) -> str:
        """Where the stream of transitions ends now. One round trip."""
        with translated():
            last: list[Any] = self._connected().xrevrange(self._keys.transitions, count=1)
        return str(last[0][0]) if last else "0-0"

    def listen(self, after: str, is_wanted: Callable[[Mapping[str, str]], bool], wait_s: float) -> str:
        """Wait for a wanted transition after this place, so long at the most; returns the new place."""
        end_s = time.monotonic() + wait_s
        # The server must answer before the connection's own patience ends.
        longest_s = self._config.timeout_s / 2
        while (left_s := end_s - time.monotonic()) > 0:
            block_ms = max(1, int(min(left_s, longest_s) * 1000))
            with translated():
                heard: Any = self._connected().xread(
                    {self._keys.transitions: after}, count=ENTRIES_AT_ONCE, block=block_ms
                )
            # As RESP3 answers, or RESP2.
            entries = _entries(heard)
            if entries:
                after = entries[-1][0]
            if any(is_wanted(fields) for _, fields in entries):
                break
        return after

    def close(self) -> None:
        """Close the connection; the next question opens another."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _connected(self) -> Client:
        if self._client is None:
            self._client = open_client(self._config)
        return self._client


def _entries(heard: Any) -> list[tuple[str, Mapping[str, str]]]:
    if not heard:
        return []
    if isinstance(heard, Mapping):
        return [entry for batches in heard.values() for batch in batches for entry in batch]
    return [entry for _, batch in heard for entry in batch]


def _now_s(client: Client) -> int:
    """The server's own clock, by which its scores are."""
    return int(client.time()[0])


def _time(text: str) -> datetime:
    return datetime.fromtimestamp(float(text), UTC)
