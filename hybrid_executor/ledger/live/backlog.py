"""What is durable and the live half does not have yet, folded and bounded.

The heartbeat puts it in and never waits, for there is nothing to wait for; one
thread takes it out. When too much has come together (the server is away) it is
all let go, and ``overflowed`` says so: the database has it.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from hybrid_executor.ledger.live.store import Item, item_change, item_new
from hybrid_executor.ledger.rows import folded
from hybrid_executor.model.attempt import SubmissionId
from hybrid_executor.model.record import Change, SubmissionRecord

#: Submissions; some 20 MB.
ENTRIES_MAX = 20_000
#: Changes of one submission that are kept as they came. To fold them costs more than to keep them, and
#: who puts them in is the heartbeat.
CHANGES_MAX = 16


@dataclass(slots=True)
class _Entry:
    record: SubmissionRecord | None = None
    changes: list[Change] = field(default_factory=list)


class Backlog:
    """One entry for each submission, in the order in which they came."""

    def __init__(self, entries_max: int = ENTRIES_MAX) -> None:
        self._entries_max = entries_max
        self._lock = threading.Lock()
        self._entries: dict[SubmissionId, _Entry] = {}
        self._overflowed = False

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, new: Sequence[SubmissionRecord], changes: Sequence[Change]) -> None:
        """Put in new submissions, then changes; a later change of a submission joins the earlier one."""
        with self._lock:
            for record in new:
                self._entries.setdefault(record.id, _Entry(record=record))
            for change in changes:
                entry = self._entries.setdefault(change.id, _Entry())
                entry.changes.append(change)
                if len(entry.changes) > CHANGES_MAX:
                    entry.changes = folded(entry.changes)
            if len(self._entries) > self._entries_max:
                self._entries.clear()
                self._overflowed = True

    def take(self, limit: int) -> list[Item]:
        """Take out so many submissions, the oldest first, as ``write.lua`` wants them."""
        with self._lock:
            taken = [self._entries.pop(key) for key in list(self._entries)[:limit]]
        items = []
        for entry in taken:
            if entry.record:
                items.append(item_new(entry.record))
            items += [item_change(change) for change in folded(entry.changes)]
        return items

    def overflowed(self) -> bool:
        """Whether something was let go since the last time that this was asked."""
        with self._lock:
            overflowed, self._overflowed = self._overflowed, False
        return overflowed
