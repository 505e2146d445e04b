"""The round trips of one scheduler to the live half: each method says how many it makes.

Decides nothing and keeps nothing but its connection, which it opens at the
first call and again after a failure. Raises ``LiveUnavailable`` only. Used by
one thread, which may block here, for ``LiveConfig.timeout_s`` at most.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from hybrid_executor.ledger.live import schema
from hybrid_executor.ledger.live.config import LiveConfig
from hybrid_executor.ledger.live.connection import Client, open_client, translated
from hybrid_executor.ledger.live.hashes import fields_of, fields_of_change
from hybrid_executor.ledger.live.schema import Keys
from hybrid_executor.model.errors import LiveUnavailable
from hybrid_executor.model.record import Change, SubmissionRecord

#: How a server names a line of a script, and how ours call commands there.
_PLACE = re.compile(r"@user_script:(\d+)")
_CALLS = re.compile(r"call\('([A-Z]+)'")
#: As ``write.lua`` takes it: operation, attempt, submission, fields and values in turn.
Item = tuple[str, str, str, list[str]]


@dataclass(frozen=True, slots=True)
class Survey:
    """What the live half believes of a scheduler."""

    #: The last batch that it has; None where it knows nothing of the scheduler.
    written: str | None
    #: Attempt -> ``SUBMISSION STATE``.
    index: Mapping[str, str]
    #: Members of each in-flight set, of all schedulers.
    members: Mapping[str, frozenset[str]]


def item_new(record: SubmissionRecord) -> Item:
    """A new submission; what is there already stays."""
    return _item("new", record)


def item_set(record: SubmissionRecord) -> Item:
    """As the database has it."""
    return _item("set", record)


def item_change(change: Change) -> Item:
    """New values, or an end."""
    fields = fields_of_change(change)
    operation = "end" if change.ended_at else "change"
    return operation, change.id.attempt_id, str(change.id.number), _flat(fields)


def item_drop(attempt_id: str) -> Item:
    """It is not open, or not this scheduler's."""
    return "drop", attempt_id, "0", []


class LiveStore:
    """The live half as one scheduler writes it."""

    def __init__(self, config: LiveConfig, job: str, *, part: str = "") -> None:
        """``part`` sets the keys of a trial apart from those that count."""
        self._config = config
        self._job = job
        self.keys = Keys(config.prefix, part)
        self._client: Client | None = None

    def write(
        self, number: str, after: str | None, items: Sequence[Item], *, anew: bool = False
    ) -> Sequence[str] | None:
        """Write a batch; None says that batch ``after`` is not there. One round trip, repeatable.

        Else the attempts whose changes met nothing that they could change.
        """
        batch = {
            "job": self._job,
            "number": number,
            "after": after,
            "anew": anew,
            "lease_s": schema.LEASE_S,
            "ended_s": schema.ENDED_S,
            "stream_s": schema.STREAM_S,
            "stream_entries": schema.STREAM_ENTRIES,
            "items": items,
        }
        answer, *unknown = self._run("write.lua", batch)
        return None if answer == "lost" else unknown

    def survey(self) -> Survey:
        """What is there now. Two round trips."""
        keys = self.keys
        with translated():
            client = self._connected()
            with client.pipeline(transaction=False) as pipeline:
                pipeline.hget(keys.scheduler(self._job), "written")
                pipeline.hgetall(keys.indexes + self._job)
                pipeline.zrange(keys.queues, 0, -1)
                written, index, queues = pipeline.execute()
            with client.pipeline(transaction=False) as pipeline:
                for queue in queues:
                    pipeline.zrange(keys.inflight + queue, 0, -1)
                members = pipeline.execute() if queues else []
        return Survey(written, index, {q: frozenset(m) for q, m in zip(queues, members, strict=True)})

    def vouch(self, survey: Survey) -> tuple[int, Collection[str]]:
        """Renew what is ours, and take out of the sets what is nobody's. One round trip per 1,000 attempts.

        How many members of sets were put back or taken out, and the attempts whose hash is gone.
        """
        strangers = [
            (queue, attempt)
            for queue, members in survey.members.items()
            for attempt in sorted(members - survey.index.keys())
        ]
        moved, missing = 0, set[str]()
        ours = sorted(survey.index)
        for start in range(0, max(len(ours), len(strangers), 1), schema.BATCH_ITEMS):
            part = slice(start, start + schema.BATCH_ITEMS)
            asked = {
                "lease_s": schema.LEASE_S,
                "ids": ours[part],
                "strangers": _grouped(strangers[part]),
            }
            count, *gone = self._run("vouch.lua", asked)
            moved += int(count)
            missing.update(gone)
        return moved, missing

    def forget(self, *attempts: str) -> None:
        """Remove this scheduler's own keys and these hashes; for a part of its own only. One round trip."""
        keys = self.keys
        with translated():
            self._connected().delete(
                keys.scheduler(self._job),
                keys.indexes + self._job,
                keys.transitions,
                keys.queues,
                *(keys.attempts + attempt for attempt in attempts),
            )

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def _run(self, script: str, argument: Mapping[str, Any]) -> list[Any]:
        keys, source = self.keys.of_script(self._job), _source(script)
        try:
            with translated():
                # EVAL and not EVALSHA: it is one round trip on a server that has just been emptied, too.
                answer: list[Any] = self._connected().eval(source, len(keys), *keys, json.dumps(argument))
                return answer
        except LiveUnavailable as error:
            raise LiveUnavailable(f"{error}{_commands_at(str(error), source)}") from error

    def _connected(self) -> Client:
        if self._client is None:
            self._client = open_client(self._config)
        return self._client


def _commands_at(error: str, source: str) -> str:
    """The commands of the script's line that an error names: Valkey says which was refused, Redis where."""
    place = _PLACE.search(error)
    line = source.splitlines()[int(place[1]) - 1] if place else ""
    return "".join(f" ({command.lower()})" for command in _CALLS.findall(line))


@cache
def _source(script: str) -> str:
    return files(__package__).joinpath(script).read_text(encoding="utf-8")


def _item(operation: str, record: SubmissionRecord) -> Item:
    return operation, record.id.attempt_id, str(record.id.number), _flat(fields_of(record))


def _flat(fields: Mapping[str, str]) -> list[str]:
    return [text for pair in fields.items() for text in pair]


def _grouped(pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """By queue, which each group begins with."""
    groups: dict[str, list[str]] = {}
    for queue, attempt in pairs:
        groups.setdefault(queue, [queue]).append(attempt)
    return list(groups.values())
